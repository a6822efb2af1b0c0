/* fuzz_vzm.c - model files of vzip. Byte 0, bit 0: the checksum is made right first, so that what
 * lies behind it is reached. A model that opens must run, write itself as it was, and its primed
 * states must load. */
#include <string.h>

#include "fuzz_ctx.h"
#include "vz_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void run(fv_ctx *ctx, const vz_model *m)
{
    nn_int_state s;
    if (!m->net) return; /* texts only */
    const int nodes = 1 << m->net->cfg.bits;
    void *memory = fv_alloc(ctx, nn_int_state_bytes(m->net, true));
    if (!memory) return;
    nn_int_state_init(&s, m->net, memory, true);
    for (int i = 0; i < m->primes; i++)
        if (m->prime[i].state) nn_int_state_load(&s, m->prime[i].state);
    for (int t = 0; t < 3; t++) {
        nn_int_step(&s, t * 97 % m->net->cfg.tokens);
        for (int node = 1; node < nodes; node = 2 * node + (t & 1)) {
            const int32_t y = nn_int_logit(&s, node);
            if (y < -VZ_LOGIT_MAX || y > VZ_LOGIT_MAX) abort();
            nn_int_adapt(&s, node, t * 30000);
        }
    }
    fv_free(ctx, memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    vz_model *m;
    if (size < 1) return 0;
    fv_ctx *ctx = fuzz_ctx((uint64_t)64 << 20);
    uint8_t *copy = malloc(size);
    if (!copy) return 0;
    memcpy(copy, data + 1, size - 1);
    if (data[0] & 1 && size > 16) vz_model_hash(copy, size - 1, copy + size - 17);
    if (vz_model_read(ctx, &m, copy, size - 1) == FV_OK) {
        vz_buf b;
        vz_buf_init(&b, ctx);
        run(ctx, m);
        if (vz_model_write(ctx, m, &b) == FV_OK &&
            (b.size != size - 1 || memcmp(b.data, copy, b.size)))
            abort();
        vz_buf_free(&b);
        vz_model_close(&m);
    } else if (m) {
        abort();
    }
    free(copy);
    fuzz_check_leaks(ctx);
    return 0;
}
