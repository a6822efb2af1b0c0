/* cuda_training.h - trainings on the emulated GPU beside those of the CPU: the same losses and weights,
 * and runs that go on bit for bit. For check_cuda_train*.c. */
#ifndef FOVEA_TEST_CUDA_TRAINING_H
#define FOVEA_TEST_CUDA_TRAINING_H

#include "cuda_device.h"

#include "tar_writer.h"
#include "temp_dir.h"
#include "training.h"

#define SIDE 32
#define MOST_ROWS 16

static fv_ctx *cpu, *gpu;

/* temp_dir/data.tar: pictures of waves and noise in two classes. */
static void make_data(void)
{
    static uint8_t ppm[SIDE * SIDE * 3 + 64];
    char path[64];
    tar t = { 0 };
    uint64_t seed = 5;
    for (int i = 0; i < 60; i++) {
        size_t n = (size_t)sprintf((char *)ppm, "P6 %d %d 255\n", SIDE, SIDE);
        for (int k = 0; k < SIDE * SIDE * 3; k++) {
            const double wave = sin(0.1 * i * (k / 3 % SIDE)) + cos(0.2 * (k / 3 / SIDE) + k % 3);
            ppm[n++] = (uint8_t)(128 + 40 * wave + (double)(test_next(&seed) & 31));
        }
        snprintf(path, sizeof path, "%c/%d.ppm", i & 1 ? 'b' : 'a', i);
        put_entry(&t, "", path, '0', ppm, n);
    }
    save_tar(&t, temp_path("data.tar"));
}

/* ---- Runs ------------------------------------------------------------------------------------ */

/* init: a model exported before, NULL for none. */
typedef struct kind { fv_trainer train; const char *recipe, *init; } kind;
static fv_status go(fv_ctx *ctx, const kind *k, const char *out, const char *more, int resume)
{
    return train_recipe(ctx, k->train, k->recipe, more, out, k->init, resume);
}

/* Losses and norms of run-OUT; how many rows. */
static int read_rows(const char *out, double loss[MOST_ROWS], double norm[MOST_ROWS])
{
    char path[400], line[400];
    int n = 0;
    snprintf(path, sizeof path, "%s/run-%s/metrics.csv", temp_dir, out);
    FILE *f = fopen(path, "r");
    while (f && n < MOST_ROWS && fgets(line, sizeof line, f)) {
        double step, lr;
        if (sscanf(line, "%lf,%lf,%lf,%lf", &step, &loss[n], &lr, &norm[n]) == 4) n++;
    }
    if (f) fclose(f);
    return n;
}

static double apart(double a, double b) { return fabs(a - b) / fmax(fabs(b), 1e-3); }

/* Largest difference of the tensors of two models, by their largest values (at least 0.05). */
static double gap_of(const char *one, const char *two)
{
    fv_model *a = NULL, *b = NULL;
    double worst = 0;
    if (fv_model_open(cpu, &a, temp_path(one), NULL) != FV_OK) return INFINITY;
    if (fv_model_open(cpu, &b, temp_path(two), NULL) != FV_OK) worst = INFINITY;
    for (int i = 0; b && i < fv_model_count(a); i++) {
        fv_tensor x, y;
        double most = 0.05, off = 0;
        fv_model_tensor(a, i, &x);
        if (!fv_model_find(b, fv_model_name(a, i), &y)) worst = INFINITY;
        for (int64_t k = 0; k < fv_tensor_count(&x) && worst < INFINITY; k++) {
            const double u = ((const float *)x.data)[k], v = ((const float *)y.data)[k];
            off = test_worst(off, fabs(u - v));
            if (fabs(v) > most) most = fabs(v);
        }
        worst = test_worst(worst, off / most);
    }
    fv_model_close(&a);
    fv_model_close(&b);
    return worst;
}

/* Both runs: losses and norms within `row_bound` of the CPU's, weights within `bound`. */
static inline void compare(const kind *k, const char *more, const char *name, double row_bound,
                    double bound)
{
    char on[40], off[40];
    double loss[2][MOST_ROWS], norm[2][MOST_ROWS], worst = 0;
    snprintf(on, sizeof on, "%s-gpu", name);
    snprintf(off, sizeof off, "%s-cpu", name);
    const long before = device_launches();
    OK(cpu, go(cpu, k, off, more, 0));
    CHECK(device_launches() == before);
    OK(gpu, go(gpu, k, on, more, 0));
    CHECK(device_launches() > before + 400);
    const int n = read_rows(off, loss[0], norm[0]);
    CHECK(n >= 4 && read_rows(on, loss[1], norm[1]) == n);
    CHECK(strstr(more, "bf16") || /* before any step */
          (apart(loss[1][0], loss[0][0]) < 3e-5 && apart(norm[1][0], norm[0][0]) < 5e-4));
    for (int i = 0; i < n; i++) {
        worst = test_worst(worst, apart(loss[1][i], loss[0][i]));
        worst = test_worst(worst, apart(norm[1][i], norm[0][i]));
    }
    CHECK_MSG(worst <= row_bound, "%s: losses and norms %g apart", name, worst);
    CHECK_MSG(gap_of(on, off) <= bound, "%s: weights %g apart", name, gap_of(on, off));
    printf("# %s: losses and norms %.2g apart, weights %.2g\n", name, worst, gap_of(on, off));
    CHECK(device_is_whole());
}

static inline void resumed_runs_are_uninterrupted_ones(const kind *k, const char *name)
{
    char whole[40], parts[40], turned[40];
    snprintf(whole, sizeof whole, "%s-whole", name);
    snprintf(parts, sizeof parts, "%s-parts", name);
    snprintf(turned, sizeof turned, "%s-turned", name);
    OK(gpu, go(gpu, k, whole, "", 0));
    OK(gpu, go(gpu, k, parts, "steps=3\n", 0));
    CHECK(!same_tensors(cpu, whole, parts));
    OK(gpu, go(gpu, k, parts, "", 1));
    CHECK(same_tensors(cpu, whole, parts));
    emulator_reversed = 1; /* no order of threads or blocks in it either */
    OK(gpu, go(gpu, k, turned, "", 0));
    emulator_reversed = 0;
    CHECK(same_tensors(cpu, whole, turned));
}
/* Begun on one device, ended on the other: within `bound` of a run of the CPU alone, which learns
 * more than that after `first` (lines with steps) of its steps. */
static inline void runs_go_on_on_the_other_device(const kind *k, const char *name, const char *first,
                                                  double bound)
{
    char there[40], back[40], stayed[40], less[40];
    snprintf(there, sizeof there, "%s-there", name);
    snprintf(back, sizeof back, "%s-back", name);
    snprintf(stayed, sizeof stayed, "%s-stayed", name);
    snprintf(less, sizeof less, "%s-less", name);
    OK(cpu, go(cpu, k, there, first, 0));
    OK(gpu, go(gpu, k, there, "", 1));
    OK(gpu, go(gpu, k, back, first, 0));
    OK(cpu, go(cpu, k, back, "", 1));
    OK(cpu, go(cpu, k, stayed, "", 0));
    CHECK_MSG(gap_of(there, stayed) <= bound, "%s: %g", there, gap_of(there, stayed));
    CHECK_MSG(gap_of(back, stayed) <= bound, "%s: %g", back, gap_of(back, stayed));
    OK(cpu, go(cpu, k, less, first, 0));
    CHECK(gap_of(less, stayed) > 5 * bound); /* that much was learnt in between */
}

static inline void device_memory_goes_back(void)
{
    CHECK_MSG(device_left(gpu) == 0, "%ld blocks are left", device_left(gpu));
}

/* Both contexts and the data; as device_open. */
static inline int begin(int argc, char **argv, const char *folder)
{
    const int code = device_open(argc, argv, 0, 1, &cpu, &gpu);
    if (code >= 0) return code;
    temp_dir_make(folder);
    make_data();
    return -1;
}

static inline int end(void)
{
    RUN(device_memory_goes_back);
    return device_close(&cpu, &gpu);
}

#endif
