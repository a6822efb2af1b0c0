/* test_cli_signals.c - the programs' handlers of SIGINT and SIGTERM: what a signal does, and that
 * its frame does not go to where the stack pointer is, see tools/cli.c. */
#define _XOPEN_SOURCE 700 /* sigaltstack */
#include "cli.h"
#include "test.h"

#include <signal.h>

static const int numbers[2] = { SIGINT, SIGTERM };

static void handlers_have_a_stack_of_their_own(void)
{
    stack_t stack;
    CHECK(sigaltstack(NULL, &stack) == 0 && !(stack.ss_flags & SS_DISABLE));
    CHECK(stack.ss_size >= 65536);
    for (int i = 0; i < 2; i++) {
        struct sigaction a;
        CHECK(sigaction(numbers[i], NULL, &a) == 0);
        CHECK(a.sa_handler != SIG_DFL && a.sa_handler != SIG_IGN);
        CHECK((a.sa_flags & SA_ONSTACK) && !(a.sa_flags & SA_RESTART));
    }
}

static void the_first_signal_is_noticed_and_the_second_ends(void)
{
    struct sigaction a;
    CHECK(!cli_interrupted());
    CHECK(raise(SIGTERM) == 0);
    CHECK(cli_interrupted());
    CHECK(sigaction(SIGTERM, NULL, &a) == 0 && a.sa_handler == SIG_DFL);
}

int main(void)
{
    const cli_common common = { .threads = 1, .quiet = true };
    fv_ctx *ctx = NULL;
    signal(SIGINT, SIG_DFL); /* a shell's background jobs ignore it, and cli_start leaves that */
    if (cli_start(&ctx, &common) != CLI_OK) return 1;
    RUN(handlers_have_a_stack_of_their_own);
    RUN(the_first_signal_is_noticed_and_the_second_ends);
    return cli_finish(&ctx, test_end());
}
