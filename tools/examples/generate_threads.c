/* generate_threads.c - pictures from several threads that share one model.
 *
 *     generate_threads [FOLDER]      writes FOLDER/thread-0.png, thread-1.png, ...
 *
 * An opened model never changes, so threads may share it; each needs a context of its own. */
#include <fovea_diffusion.h>

#include <pthread.h>
#include <stdio.h>

enum { THREADS = 3 };

typedef struct job {
    pthread_t thread;
    const fv_dit *dit;
    const char *folder;
    int index, failed;
} job;

static void *generate(void *arg)
{
    job *j = arg;
    fv_ctx_options options = FV_CTX_OPTIONS_INIT;
    options.threads = 1; /* the threads of this program are the parallelism */
    fv_ctx *ctx = NULL;
    fv_image image = { 0 };
    char path[4096];
    j->failed = 1;
    if (fv_ctx_create(&ctx, &options) != FV_OK) return NULL;

    fv_dit_info info;
    fv_dit_get_info(j->dit, &info);
    fv_generate_options o = FV_GENERATE_OPTIONS_INIT;
    o.class_all = j->index % info.classes;
    o.steps = 12; /* few, so that the example is quick */
    o.seed = 7;
    fv_image_write_options to_png = FV_IMAGE_WRITE_OPTIONS_INIT;
    to_png.overwrite = 1;
    snprintf(path, sizeof path, "%s/thread-%d.png", j->folder, j->index);
    if (fv_generate(ctx, j->dit, &o, &image, NULL) == FV_OK
        && fv_image_write(ctx, &image, path, &to_png) == FV_OK) {
        printf("%s: %s\n", path, fv_dit_class_name(j->dit, o.class_all));
        j->failed = 0;
    } else {
        fprintf(stderr, "thread %d: %s\n", j->index, fv_ctx_error(ctx));
    }
    fv_image_free(ctx, &image);
    fv_ctx_destroy(&ctx);
    return NULL;
}

int main(int argc, char **argv)
{
    fv_ctx *ctx = NULL;
    fv_model *file = NULL;
    fv_dit *dit = NULL;
    size_t size;
    const void *bytes = fv_dit_default_model(&size);
    if (!bytes || fv_ctx_create(&ctx, NULL) != FV_OK) {
        fprintf(stderr, "generate_threads: the library was built without a model\n");
        return 77;
    }
    if (fv_model_open_memory(ctx, &file, bytes, size, NULL) != FV_OK
        || fv_dit_open(ctx, &dit, file, NULL) != FV_OK) {
        fprintf(stderr, "generate_threads: %s\n", fv_ctx_error(ctx));
        return 1;
    }
    job jobs[THREADS];
    int started = 0, failed = 0;
    for (; started < THREADS; started++) {
        jobs[started] = (job){ .dit = dit, .folder = argc > 1 ? argv[1] : ".", .index = started };
        if (pthread_create(&jobs[started].thread, NULL, generate, &jobs[started])) break;
    }
    for (int i = 0; i < started; i++) failed |= pthread_join(jobs[i].thread, NULL) || jobs[i].failed;
    fv_dit_close(&dit);
    fv_model_close(&file);
    fv_ctx_destroy(&ctx);
    return failed || started < THREADS;
}
