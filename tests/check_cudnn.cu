/* check_cudnn.cu - what cudnn.cu asks of cuDNN, shown to the library without a GPU: cuDNN plans for a
 * device that is described to it. Convolutions become whole plans. Kernels of attention are compiled for
 * the machine at hand and need its driver; here their graphs are accepted. Nothing runs: numbers are
 * compared on a GPU (check_cuda --device cuda). Skipped where there is no cuDNN. */
#include "../kernels/cuda/cudnn.cu"

#include "test.h"

#if defined(FVK_HAS_CUDNN)

static cudnnBackendDescriptor_t device; /* NULL: this cuDNN takes none by description */

static void describe_device(int capability, int multiprocessors, int shared_bytes)
{
    char text[1200];
    const int n = snprintf(
        text, sizeof text,
        "{\"deviceVer\":%d,\"driverVer\":13000,\"cudaDeviceId\":0,\"deviceName\":\"described\","
        "\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":65536,"
        "\"multiProcessorCount\":%d,\"smClockRateKHz\":1400000,\"memClockRateKHz\":1500000,"
        "\"l2CacheSize\":41943040,\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,"
        "\"maxSharedMemoryPerBlockOptin\":%d,\"reservedSharedMemoryPerBlock\":1024,"
        "\"maxRegistersPerSM\":65536,\"pciDeviceId\":0,\"maxCtasPerSM\":32,\"maxThreadsPerBlock\":1024,"
        "\"maxThreadsPerSM\":2048,\"isTccDriver\":0,\"supportCoopLaunch\":1,"
        "\"totalGlobalMem\":40000000000,\"cudnnVersion\":%d,\"deviceVersion\":%d}",
        capability, multiprocessors, shared_bytes, (int)dnn()->version, capability);
    cudnnBackendDescriptor_t d = nullptr;
    device = nullptr;
    if (dnn()->cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &d) != CUDNN_STATUS_SUCCESS)
        return;
    if (dnn()->cudnnBackendSetAttribute(d, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, n,
                                        text) == CUDNN_STATUS_SUCCESS &&
        dnn()->cudnnBackendFinalize(d) == CUDNN_STATUS_SUCCESS)
        device = d;
    else (void)dnn()->cudnnBackendDestroyDescriptor(d);
}

static const fvk_conv plain = { 2, 64, 64, 128, 256, 64, 64, 3, 3, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0 };

/* A plan of all of it? */
static bool has_plan(fvk_conv c, int what, bool half)
{
    int64_t space = 0;
    fvk_library *l = begin(dnn());
    c.what = what;
    c.x_bf16 = c.w_bf16 = c.y_bf16 = half;
    describe(l, &c, nullptr);
    const bool ok = choose(l, nullptr, device, !half, &space);
    drop(l);
    return ok;
}

static void convolutions_have_plans(void)
{
    fvk_conv half_size = plain, odd = plain, one = plain;
    half_size.stride = 2;
    half_size.h = half_size.w = 32;
    half_size.top = half_size.left = 0;
    odd.C = 3;
    odd.O = 20;
    one.kh = one.kw = 1;
    one.top = one.left = one.bottom = one.right = 0;
    const fvk_conv all[] = { plain, half_size, odd, one };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        for (int what = 0; what < 3; what++)
            CHECK_MSG(has_plan(all[i], what, false), "f32, convolution %d, pass %d", (int)i, what);
        CHECK_MSG(has_plan(all[i], FVK_CONV_FORWARD, true), "bf16, convolution %d", (int)i);
        CHECK_MSG(has_plan(all[i], FVK_CONV_DX, true), "bf16, convolution %d, dx", (int)i);
    }
}

static void nonsense_has_none(void)
{
    fvk_conv c = plain;
    c.h = 63;
    CHECK(!has_plan(c, FVK_CONV_FORWARD, false));
}

static void graphs_of_attention_are_accepted(void)
{
    for (int64_t hd = 64; hd <= 128; hd += 8)
        for (int kind = 0; kind < 3; kind++) {
            const int64_t row = 3 * 16 * hd; /* q, k and v in one tensor */
            const fvk_flash a = { 32, 256, 200, 16, hd, row, row, row, 0.125f, kind > 0, kind > 1, 0 };
            fvk_library *l = begin(dnn());
            describe(l, nullptr, &a);
            (void)graph_of(l, nullptr);
            CHECK_MSG(l->status == CUDNN_STATUS_SUCCESS, "heads of %d, kind %d: %s", (int)hd, kind,
                      dnn()->cudnnGetErrorString(l->status));
            drop(l);
        }
}

int main(void)
{
    static const int of[2][3] = { { 800, 108, 166912 }, { 900, 132, 232448 } }; /* A100, H100 */
    char text[200];
    fvi_dnn_text(nullptr, text, sizeof text);
    printf("# %s\n", text);
    for (int i = 0; i < 2; i++) {
        if (dnn()->ok) describe_device(of[i][0], of[i][1], of[i][2]);
        if (!device) {
            SKIP(all, dnn()->ok ? "it takes no description of a device" : "there is no cuDNN");
            continue;
        }
        RUN(convolutions_have_plans);
        RUN(nonsense_has_none);
        RUN(graphs_of_attention_are_accepted);
        (void)dnn()->cudnnBackendDestroyDescriptor(device);
        device = nullptr;
    }
    return test_end();
}

#else
int main(void)
{
    SKIP(all, "built without cuDNN");
    return test_end();
}
#endif
