/* fovea_ranks.c - fovea train and fovea distill under mpirun: finds the module that speaks MPI, and
 * gives its ranks to the context.
 *
 * Which launcher started this process, and as one of how many, is in the environment. Without a
 * launcher nothing is opened. With one, a build without MPI refuses: else every rank would train
 * the whole batch by itself, into one folder. */
#include "fovea_mpi.h"
#include "fovea_tool.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    fv_comm *comm;
    void *module;
    fovea_mpi_close_fn close;
} ranks;

/* Open MPI, MPICH and Intel MPI (Hydra), MVAPICH. */
static int launched_ranks(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *v = getenv(names[i]);
        const int n = v ? atoi(v) : 0;
        if (n > 0) return n;
    }
    return 1;
}

static void *open_at(const char *folder, const char *below)
{
    char *path = cli_format("%s%s/" FOVEA_MPI_FILE, folder, below);
    /* Its own modules look for the symbols of MPI. */
    void *m = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    free(path);
    return m;
}

bool fovea_own_path(char to[FOVEA_OWN_PATH])
{
    const ssize_t n = readlink("/proc/self/exe", to, FOVEA_OWN_PATH - 1);
    to[n > 0 ? n : 0] = 0;
    return n > 0;
}

/* Beside the program, as it is built, or where it is installed. */
static void *open_module(void)
{
    char self[FOVEA_OWN_PATH];
    if (!fovea_own_path(self)) return NULL;
    char *folder = cli_folder_of(self);
    void *m = open_at(folder, "");
    if (!m) m = open_at(folder, "/../" FOVEA_MODULE_DIR);
    free(folder);
    return m;
}

static int join(fv_ctx *ctx, fovea_mpi_open_fn open)
{
    char why[200] = "";
    fovea_mpi_link l;
    fv_comm_link link = FV_COMM_LINK_INIT;
    if (open(&l, why, sizeof why) != 0) return cli_fail(CLI_FAILED, "MPI: %s", why);
    link.rank = l.rank;
    link.size = l.size;
    link.exchange = l.exchange;
    const fv_status s = fv_comm_create(ctx, &ranks.comm, &link);
    if (s != FV_OK) return cli_report(ctx, s, "MPI");
    fv_ctx_set_comm(ctx, ranks.comm);
    if (l.rank > 0) cli_set_talk(true, false);
    return CLI_OK;
}

int fovea_ranks_open(fv_ctx *ctx)
{
    const int n = launched_ranks();
    if (n < 2) return CLI_OK;
    ranks.module = open_module();
    if (!ranks.module) {
        const char *why = dlerror();
        return cli_fail(CLI_FAILED,
                        "started as one of %d ranks, but " FOVEA_MPI_FILE " cannot be opened (%s): "
                        "build with FOVEA_MPI=ON, or start without mpirun", n, why ? why : "not found");
    }
    fovea_mpi_open_fn open;
    *(void **)&open = dlsym(ranks.module, "fovea_mpi_open");
    *(void **)&ranks.close = dlsym(ranks.module, "fovea_mpi_close");
    if (!open || !ranks.close)
        return cli_fail(CLI_FAILED, FOVEA_MPI_FILE ": is not a module of fovea");
    return join(ctx, open);
}

bool fovea_ranks_first(void)
{
    return fv_comm_rank(ranks.comm) == 0;
}

void fovea_ranks_close(fv_ctx *ctx, int code)
{
    /* After a loss the others cannot be waited for. */
    const bool lost = fv_comm_broken(ranks.comm);
    if (!ranks.comm) return;
    fv_ctx_set_comm(ctx, NULL);
    fv_comm_destroy(&ranks.comm);
    ranks.close(lost ? (code ? code : CLI_FAILED) : 0);
    /* The module stays: MPI may have left handlers that run at exit. */
}

int fovea_ranks_report(fv_ctx *ctx, fv_status s)
{
    const int rank = fv_comm_rank(ranks.comm);
    const bool is_known = s == FV_ERR_COMM || s == FV_ERR_CANCELLED; /* another rank tells it */
    if (rank == 0) return cli_report(ctx, s, NULL);
    if (is_known && !fv_comm_broken(ranks.comm)) return CLI_OK;
    char *who = cli_format("rank %d", rank);
    const int code = cli_report(ctx, s, who);
    free(who);
    return code;
}

/* The least that a sum to all ranks needs of each. */
static uint64_t least_bytes(const fv_comm_stats *s)
{
    const uint64_t size = (uint64_t)fv_comm_size(ranks.comm);
    return (uint64_t)(2.0 * (double)(size - 1) / (double)size * (double)s->summed_bytes + 0.5);
}

void fovea_ranks_note(const char *out)
{
    fv_comm_stats s;
    if (fv_comm_size(ranks.comm) < 2) return;
    fv_comm_get_stats(ranks.comm, &s);
    cli_note("%s: %d ranks, each sent %.1f MiB of gradients (the least possible: %.1f) and %.1f MiB "
             "of other data, %.1f s in messages", out, fv_comm_size(ranks.comm),
             (double)s.sum_bytes / 1048576, (double)least_bytes(&s) / 1048576,
             (double)s.other_bytes / 1048576, s.seconds);
}

void fovea_ranks_json(cli_json *j)
{
    fv_comm_stats s;
    if (fv_comm_size(ranks.comm) < 2) return;
    fv_comm_get_stats(ranks.comm, &s);
    cli_json_u64(j, "ranks", (uint64_t)fv_comm_size(ranks.comm));
    cli_json_u64(j, "gradient_bytes", s.summed_bytes);
    cli_json_u64(j, "sent_bytes", s.sum_bytes);
    cli_json_u64(j, "least_bytes", least_bytes(&s));
    cli_json_u64(j, "other_bytes", s.other_bytes);
    cli_json_number(j, "message_seconds", s.seconds);
}
