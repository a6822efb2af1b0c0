/* vpic.c - the program vpic: which verb. */
#include "vpic.h"
#include "vpic_bench.h"

#include <string.h>

static int verb_bench(int argc, char **argv)
{
    return vpic_bench(argc, argv, "vpic bench");
}

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} verbs[] = {
    {"c", vpic_encode},
    {"d", vpic_decode},
    {"info", vpic_info},
    {"compare", vpic_compare},
    {"bench", verb_bench},
};
#define VERBS ((int)(sizeof verbs / sizeof *verbs))

int main(int argc, char **argv)
{
    const cli_option options[] = {CLI_OPT_END};
    const cli_command command = {"vpic",
                                 "c|d|info|compare|bench [options]",
                                 "Learned image compression.",
                                 "vpic c PICTURE       make PICTURE.rdvq of it\n"
                                 "vpic d FILE.rdvq     make FILE.png of it\n"
                                 "vpic info FILE       what is in .rdvq files and models\n"
                                 "vpic compare A B     how far two pictures are apart\n"
                                 "vpic bench FOLDER    vpic beside other image coders, at many "
                                 "rates\n"
                                 "Each verb has its own --help.\n",
                                 options,
                                 0,
                                 0};
    const char *names[VERBS + 1] = {NULL};
    fv_ctx *none = NULL;
    cli_setup("vpic", argv);
    for (int i = 0; i < VERBS; i++) {
        names[i] = verbs[i].name;
        if (argc > 1 && strcmp(argv[1], verbs[i].name) == 0)
            return verbs[i].run(argc - 1, argv + 1);
    }
    if (argc > 1 && argv[1][0] != '-') {
        const char *near = cli_nearest(argv[1], names);
        return cli_fail(CLI_USAGE, "unknown verb \"%s\"%s%s (vpic --help)", argv[1],
                        near ? ", did you mean " : "", near ? near : "");
    }
    int files;
    const int code = cli_parse(&command, argc, argv, NULL, &files);
    if (code >= 0) return cli_finish(&none, code);
    return cli_fail(CLI_USAGE, "a verb is missing (vpic --help)");
}
