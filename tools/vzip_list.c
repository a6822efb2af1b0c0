/* vzip_list.c - vzip l: what is in archives, without decoding them. */
#include "vzip.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct totals {
    uint64_t files, frames, blocks, archive, original;
    bool is_first;
} totals;

static double percent(uint64_t part, uint64_t whole)
{
    return whole ? 100 * (double)part / (double)whole : 100;
}

/* The model of a frame: its name, "none", or "missing" if it is not at hand. */
static const char *model_name(const vzip_job *j, const fv_vzip_frame *f, char name[64])
{
    fv_vzip_model_info i;
    if (!f->models) return "none";
    const fv_vzip_model *m = vzip_shelf_find(j->shelf, f->model_id, f->model_hash);
    if (!m) return "missing";
    fv_vzip_model_get_info(m, &i);
    cli_printable(i.name, name, 64);
    return name;
}

static void print_frames(const vzip_job *j, const fv_vzip_archive *a, uint64_t frames)
{
    for (uint64_t i = 0; i < frames; i++) {
        fv_vzip_frame f;
        char name[256] = "", when[64] = "", model[128] = "", id[VZIP_MODEL_ID], called[64];
        if (fv_vzip_get_frame(a, i, &f) != FV_OK) return;
        if (f.name) cli_printable(f.name, name, sizeof name);
        vzip_model_id(f.model_id, f.model_hash, id);
        if (f.models)
            snprintf(model, sizeof model, ", model %s (%s)", id, model_name(j, &f, called));
        const time_t t = (time_t)f.mtime_s;
        struct tm tm;
        if (f.has_time && gmtime_r(&t, &tm))
            strftime(when, sizeof when, " %Y-%m-%d %H:%M:%S UTC", &tm);
        printf("        frame %llu at %llu: version %d, level %d, tables 2^%d bytes, %llu blocks, "
               "%llu bytes%s%s%s%s\n",
               (unsigned long long)i, (unsigned long long)f.archive_offset, f.version, f.level,
               f.memory_log2, (unsigned long long)f.blocks, (unsigned long long)f.original_bytes,
               model, when, *name ? ", " : "", name);
    }
}

static void print_json(const vzip_job *job, const char *path, const fv_vzip_info *i,
                       const fv_vzip_frame *f, totals *t)
{
    cli_json j;
    char id[VZIP_MODEL_ID], called[64];
    const bool is_missing = f->models && !vzip_shelf_find(job->shelf, f->model_id, f->model_hash);
    if (!t->is_first) fputs(", ", stdout);
    cli_json_open(&j, stdout);
    cli_json_string(&j, "file", path);
    cli_json_string(&j, "name", f->name);
    cli_json_u64(&j, "archive_bytes", i->archive_bytes);
    cli_json_u64(&j, "original_bytes", i->original_bytes);
    cli_json_u64(&j, "frames", i->frames);
    cli_json_u64(&j, "blocks", i->blocks);
    cli_json_u64(&j, "block_bytes", i->block_bytes);
    cli_json_u64(&j, "memory_bytes", i->memory_bytes);
    cli_json_u64(&j, "version", (uint64_t)f->version);
    cli_json_u64(&j, "level", (uint64_t)f->level);
    cli_json_u64(&j, "models", (uint64_t)f->models);
    vzip_model_id(f->model_id, f->model_hash, id);
    cli_json_string(&j, "model", f->models ? id : NULL);
    cli_json_string(&j, "model_name",
                    f->models && !is_missing ? model_name(job, f, called) : NULL);
    cli_json_bool(&j, "model_missing", is_missing);
    cli_json_string(&j, "check", "XXH64");
    cli_json_bool(&j, "index", i->has_index);
    fputs("\n}", stdout);
}

static void print_row(const vzip_job *j, const char *path, const fv_vzip_info *i,
                      const fv_vzip_frame *f, const totals *t)
{
    char name[512], called[64];
    cli_printable(path, name, sizeof name);
    if (t->is_first)
        puts("frames  blocks        archive       original    ratio  level  model     check  name");
    printf("%6llu  %6llu  %13llu  %13llu  %5.2f %%  %5d  %-8s  XXH64  %s\n",
           (unsigned long long)i->frames, (unsigned long long)i->blocks,
           (unsigned long long)i->archive_bytes, (unsigned long long)i->original_bytes,
           percent(i->archive_bytes, i->original_bytes), f->level, model_name(j, f, called),
           name);
}

static int list(const vzip_job *j, const char *path, void *user)
{
    totals *t = user;
    vzip_in in;
    fv_vzip_archive *a = NULL;
    fv_vzip_info info;
    fv_vzip_frame f;
    int code = vzip_open_in(j, &in, path);
    if (code != CLI_OK) return code;
    vzip_pipe p = {&in, NULL, 0};
    const fv_vzip_source source = {vzip_read_at, (uint64_t)in.st.st_size, &p};
    fv_status s = fv_vzip_open(j->ctx, &a, &source, NULL);
    if (s == FV_OK) s = fv_vzip_get_frame(a, 0, &f);
    if (s == FV_OK) {
        fv_vzip_get_info(a, &info);
        if (j->common.json)
            print_json(j, path, &info, &f, t);
        else
            print_row(j, path, &info, &f, t);
        if (j->common.verbose && !j->common.json) print_frames(j, a, info.frames);
        t->is_first = false;
        t->files++;
        t->frames += info.frames;
        t->blocks += info.blocks;
        t->archive += info.archive_bytes;
        t->original += info.original_bytes;
    } else {
        code = in.err ? cli_fail(CLI_FAILED, "%s: cannot read: %s", path, strerror(in.err))
                      : cli_report(j->ctx, s, path);
    }
    fv_vzip_close(&a);
    vzip_close_in(&in);
    return code;
}

int vzip_list_files(const vzip_job *j, const char *const *files, int count)
{
    totals t = {.is_first = true};
    int code = CLI_OK;
    if (j->common.json) fputs("{\n  \"files\": [", stdout);
    for (int i = 0; i < count && !cli_interrupted(); i++) {
        const int c = vzip_each(j, files[i], list, &t);
        if (code == CLI_OK) code = c;
    }
    if (j->common.json)
        puts("]\n}");
    else if (t.files > 1)
        printf("%6llu  %6llu  %13llu  %13llu  %5.2f %%                          %llu files\n",
               (unsigned long long)t.frames, (unsigned long long)t.blocks,
               (unsigned long long)t.archive, (unsigned long long)t.original,
               percent(t.archive, t.original), (unsigned long long)t.files);
    return code;
}
