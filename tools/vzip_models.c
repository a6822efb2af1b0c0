/* vzip_models.c - models at hand: the one given, those in the folders of VZIP_MODEL_PATH, vzip's
 * own; and the verb that lists them.
 *
 * Archives name a model by its number and the hash of its content, so a file may have any name. A
 * file is opened, which reads and checks all of it, only after its first and last bytes say that it
 * is the right one (codec/FORMAT-vzm.md). */
#include "vzip.h"

#include <stdlib.h>
#include <string.h>

#define SUFFIX ".vzm"

/* ---- Folders and files ----------------------------------------------------------------------- */

/* Paths of the model files in a folder, sorted; NULL: it cannot be read. */
static char **files_of(const char *folder, size_t *count)
{
    size_t all;
    char **paths = cli_names_of(folder, &all);
    *count = 0;
    if (!paths) return NULL;
    for (size_t i = 0; i < all; i++) {
        char *name = paths[i];
        if (cli_ends_with(name, SUFFIX)) paths[(*count)++] = cli_format("%s/%s", folder, name);
        free(name);
    }
    return paths;
}

/* Calls `each` for the folders of VZIP_MODEL_PATH until it returns true. */
static bool each_folder(bool (*each)(const char *folder, void *user), void *user)
{
    const char *p = getenv("VZIP_MODEL_PATH");
    bool is_done = false;
    while (p && *p && !is_done) {
        const size_t n = strcspn(p, ":");
        char *folder = cli_format("%.*s", (int)n, p);
        if (n) is_done = each(folder, user);
        free(folder);
        p += n + (p[n] == ':');
    }
    return is_done;
}

static uint64_t little_endian(const uint8_t *p, int bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

/* Does the file say that it is this model? */
static bool is_that(const char *path, uint32_t id, uint64_t hash)
{
    static const uint8_t magic[8] = {0x89, 'V', 'Z', 'M', 0x0d, 0x0a, 0x1a, 0x0a};
    uint8_t head[16], tail[8];
    if (cli_is_special(path)) return false; /* a pipe would be waited for */
    FILE *f = fopen(path, "rb");
    const bool is_read = f && fread(head, 1, sizeof head, f) == sizeof head &&
                         fseek(f, -16, SEEK_END) == 0 &&
                         fread(tail, 1, sizeof tail, f) == sizeof tail;
    if (f) (void)fclose(f);
    return is_read && memcmp(head, magic, sizeof magic) == 0 && little_endian(head + 12, 4) == id &&
           little_endian(tail, 8) == hash;
}

/* ---- The shelf ------------------------------------------------------------------------------- */

typedef struct wanted {
    vzip_shelf *shelf;
    uint32_t id;
    uint64_t hash;
    fv_vzip_model *found;
} wanted;

static bool find_in(const char *folder, void *user)
{
    wanted *w = user;
    size_t count;
    char **paths = files_of(folder, &count);
    for (size_t i = 0; i < count; i++) {
        if (!w->found && is_that(paths[i], w->id, w->hash) &&
            fv_vzip_model_open(w->shelf->ctx, &w->found, paths[i]) != FV_OK)
            cli_note("%s: not used: %s", paths[i], fv_ctx_error(w->shelf->ctx));
        free(paths[i]);
    }
    free(paths);
    return w->found != NULL;
}

const fv_vzip_model *vzip_shelf_find(vzip_shelf *s, uint32_t id, uint64_t hash)
{
    fv_vzip_model_info i;
    const fv_vzip_model *at_hand[VZIP_SHELF + 2] = {fv_vzip_model_own(), s->given};
    for (int k = 0; k < s->count; k++) at_hand[k + 2] = s->found[k];
    for (int k = 0; k < s->count + 2; k++) {
        if (!at_hand[k]) continue;
        fv_vzip_model_get_info(at_hand[k], &i);
        if (i.id == id && i.hash == hash) return at_hand[k];
    }
    wanted w = {s, id, hash, NULL};
    if (s->count == VZIP_SHELF || !each_folder(find_in, &w)) return NULL;
    return s->found[s->count++] = w.found;
}

static const fv_vzip_model *find(void *user, uint32_t id, uint64_t hash)
{
    return vzip_shelf_find(user, id, hash);
}

void vzip_shelf_limits(vzip_shelf *s, fv_vzip_limits *l)
{
    l->find_model = find;
    l->find_user = s;
}

typedef struct named {
    const char *name;
    char *path;
} named;

static bool look_for_name(const char *folder, void *user)
{
    named *n = user;
    for (int i = 0; i < 2 && !n->path; i++) {
        n->path = cli_format("%s/%s%s", folder, n->name, i ? SUFFIX : "");
        if (cli_file_exists(n->path)) return true;
        free(n->path);
        n->path = NULL;
    }
    return false;
}

int vzip_shelf_open(vzip_shelf *s, fv_ctx *ctx, const char *model)
{
    named n = {model, NULL};
    memset(s, 0, sizeof *s);
    s->ctx = ctx;
    if (!model) return CLI_OK;
    if (!cli_file_exists(model) && !strchr(model, '/')) (void)each_folder(look_for_name, &n);
    const fv_status st = fv_vzip_model_open(ctx, &s->given, n.path ? n.path : model);
    free(n.path);
    return st == FV_OK ? CLI_OK : cli_report(ctx, st, model);
}

void vzip_shelf_close(vzip_shelf *s)
{
    for (int i = 0; i < s->count; i++) fv_vzip_model_close(&s->found[i]);
    fv_vzip_model_close(&s->given);
}

void vzip_model_id(uint32_t id, uint64_t hash, char out[VZIP_MODEL_ID])
{
    snprintf(out, VZIP_MODEL_ID, "%08lx-%016llx", (unsigned long)id, (unsigned long long)hash);
}

/* ---- vzip models ----------------------------------------------------------------------------- */

typedef struct models_list {
    fv_ctx *ctx;
    bool json, is_first;
    int code;
} models_list;

static void print_json(models_list *l, const fv_vzip_model_info *i, const char *id,
                       const char *from)
{
    cli_json j;
    if (!l->is_first) fputs(", ", stdout);
    cli_json_open(&j, stdout);
    cli_json_string(&j, "name", i->name);
    cli_json_string(&j, "model", id);
    cli_json_string(&j, "from", from);
    cli_json_u64(&j, "bytes", i->bytes);
    cli_json_u64(&j, "texts", (uint64_t)i->texts);
    cli_json_u64(&j, "text_bytes", i->text_bytes);
    cli_json_bool(&j, "network", i->has_network);
    cli_json_u64(&j, "width", (uint64_t)i->width);
    cli_json_u64(&j, "layers", (uint64_t)i->layers);
    cli_json_u64(&j, "experts", (uint64_t)i->experts);
    cli_json_u64(&j, "pieces", (uint64_t)i->pieces);
    cli_json_u64(&j, "states", (uint64_t)i->states);
    fputs("\n}", stdout);
}

static void print_model(models_list *l, const fv_vzip_model *m, const char *from)
{
    char id[VZIP_MODEL_ID], name[64], place[512], network[48] = "none";
    fv_vzip_model_info i;
    fv_vzip_model_get_info(m, &i);
    vzip_model_id(i.id, i.hash, id);
    if (l->json) {
        print_json(l, &i, id, from);
    } else {
        if (l->is_first)
            puts("name              model                           bytes  texts  of bytes  "
                 "network   "
                 " pieces  from");
        if (i.experts)
            snprintf(network, sizeof network, "%d x %d x %d", i.width, i.layers, i.experts);
        else if (i.has_network) snprintf(network, sizeof network, "%d x %d", i.width, i.layers);
        cli_printable(i.name, name, sizeof name);
        cli_printable(from, place, sizeof place);
        printf("%-16s  %s  %9llu  %5d  %8llu  %-9s  %6d  %s\n", name, id,
               (unsigned long long)i.bytes, i.texts, (unsigned long long)i.text_bytes, network,
               i.pieces, place);
    }
    l->is_first = false;
}

static void list_file(models_list *l, const char *path)
{
    fv_vzip_model *m;
    const fv_status s = fv_vzip_model_open(l->ctx, &m, path);
    if (s == FV_OK) {
        print_model(l, m, path);
        fv_vzip_model_close(&m);
        return;
    }
    const int code = cli_report(l->ctx, s, path);
    if (l->code == CLI_OK) l->code = code;
}

static bool list_folder(const char *folder, void *user)
{
    models_list *l = user;
    size_t count;
    char **paths = files_of(folder, &count);
    if (!paths) {
        const int code = cli_fail(CLI_FAILED, "%s: is no folder that can be read", folder);
        if (l->code == CLI_OK) l->code = code;
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (!cli_interrupted()) list_file(l, paths[i]);
        free(paths[i]);
    }
    free(paths);
    return false;
}

static int list_models(void *args, const char **files, int count)
{
    const cli_common *common = args;
    models_list l = {.json = common->json, .is_first = true};
    const int code = cli_start(&l.ctx, common);
    if (code != CLI_OK) return cli_finish(&l.ctx, code);
    if (l.json) fputs("{\n  \"models\": [", stdout);
    if (fv_vzip_model_own()) print_model(&l, fv_vzip_model_own(), "vzip");
    (void)each_folder(list_folder, &l);
    for (int i = 0; i < count && !cli_interrupted(); i++) {
        if (cli_is_folder(files[i])) (void)list_folder(files[i], &l);
        else list_file(&l, files[i]);
    }
    if (l.json) puts("]\n}");
    return cli_finish(&l.ctx, l.code);
}

int vzip_models(int argc, char **argv)
{
    cli_common common = {.json = false};
    const cli_option options[] = {CLI_OPT_JSON(&common), CLI_OPT_TALK_END(&common)};
    const cli_command command = {
        "vzip models",
        "[options] [FILE ...]",
        "Models at hand: vzip's own, those in folders of VZIP_MODEL_PATH, and FILES.",
        "A folder stands for the .vzm files in it. Archives name a model by its number\n"
        "and the hash of its content; the file may have any name.\n",
        options,
        0,
        argc};
    return cli_run_files(&command, argc, argv, list_models, &common);
}
