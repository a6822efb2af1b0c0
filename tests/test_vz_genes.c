/* test_vz_genes.c - the coder of FASTA and FASTQ: odd files return their bytes, repeats on either
 * strand become small, one code for every vector width, memory as declared, wrong code survived. */
#include "vz_fixture.h"
#include "vz_genes.h"

#define ROOM 120000
static uint8_t file[ROOM];

static vz_case genes(int level, const void *data, size_t size)
{
    return (vz_case){&vz_genes_coder, {level, 22, NULL}, 0, data, size};
}

/* Lines of `width` random bases: `kind` 0 plain, 1 lower-case parts, 2 IUPAC letters, 3 Windows
 * line ends, 4 no last line end, 5 RNA. */
static size_t make_fasta(int kind, int records, size_t residues, size_t width)
{
    uint64_t seed = 3;
    size_t n = 0;
    for (int r = 0; r < records; r++) {
        n += (size_t)sprintf((char *)file + n, ">record_%d some species%s\n", 8 + r,
                             kind == 3 ? "\r" : "");
        for (size_t i = 0; i < residues;) {
            for (size_t k = 0; k < width && i < residues; k++, i++) {
                char c = "ACGT"[test_next(&seed) >> 30];
                if (kind == 5 && c == 'T') c = 'U';
                if (kind == 2 && i % 91 > 80) c = "NNRYKMSWBD-"[i % 11];
                if (kind == 1 && i / 77 % 3 == 1) c = (char)(c | 0x20);
                file[n++] = (uint8_t)c;
            }
            if (kind == 3) file[n++] = '\r';
            file[n++] = '\n';
        }
    }
    return kind == 4 ? n - 1 : n;
}

/* `kind` 0 plain, 1 names on the third line, 2 Windows, 3 long reads of all lengths, 4 lower case
 * and odd letters. */
static size_t make_fastq(int kind, int reads)
{
    const char *end = kind == 2 ? "\r\n" : "\n";
    uint64_t seed = 9;
    size_t n = 0;
    for (int r = 0; r < reads; r++) {
        const int length = kind == 3 ? (int)(test_next(&seed) >> 23) : 70;
        n += (size_t)sprintf((char *)file + n, "@run.%d x/1%s", 95 + r, end);
        for (int i = 0; i < length; i++) {
            const uint32_t v = test_next(&seed);
            char c = (v >> 20) % 40 == 0 ? 'N' : "ACGT"[v >> 30];
            if (kind == 4 && i % 30 > 25) c = i % 2 ? 'r' : 'a';
            file[n++] = (uint8_t)c;
        }
        n += (size_t)sprintf((char *)file + n, "%s+", end);
        if (kind == 1) n += (size_t)sprintf((char *)file + n, "run.%d x/1", 95 + r);
        n += (size_t)sprintf((char *)file + n, "%s", end);
        for (int i = 0; i < length; i++)
            file[n++] = (uint8_t)(kind == 4 ? 126 - i % 94 : 63 + (int)(test_next(&seed) % 10));
        n += (size_t)sprintf((char *)file + n, "%s", end);
    }
    return n;
}

static void every_form_returns_its_bytes(void)
{
    fv_ctx *ctx = vz_test_ctx(0, 0);
    for (int kind = 0; kind < 6; kind++) {
        size_t n = make_fasta(kind, 3, 700, 60);
        uint32_t param = 0;
        CHECK_MSG(vz_genes_detect(file, n, true, &param) == n, "%d", kind);
        CHECK_MSG(vz_round_trip(ctx, genes(3, file, n), NULL) > 0, "fasta %d", kind);
        n = make_fasta(kind, 1, 400, 4000);
        CHECK(vz_round_trip(ctx, genes(3, file, n), NULL) > 0);
    }
    for (int kind = 0; kind < 5; kind++) {
        const size_t n = make_fastq(kind, 30);
        uint32_t param = 0;
        CHECK_MSG(vz_genes_detect(file, n, true, &param) == n, "%d", kind);
        CHECK_MSG(vz_round_trip(ctx, genes(3, file, n), NULL) > 0, "fastq %d", kind);
        CHECK(vz_round_trip(ctx, genes(3, file, n - 1), NULL) >= 0);
    }
    for (int level = 1; level <= 9; level += 4)
        CHECK(vz_round_trip(ctx, genes(level, file, make_fastq(1, 9)), NULL) > 0);
    fv_ctx_destroy(&ctx);
}

static void odd_lines_return_their_bytes(void)
{
    static const char *const TEXTS[] = {
        "ACGTACGTACGTACGTACGTACGTACGTAC\nACGATTTACGATA\n\nACGGCTTATCATCTACATCACTACAT\nA\n",
        ">\nACGTACGTACGTACGTACGTACGT\n>a\n>b\n\nACGTACGATCATCGATCGACTGACATCGATAC\n",
        ">x 9\nACGTTAGCATGCATCGATCACG\n>x 10\nACGATCGATCAGCATCGACTACG\n>x 99\nACGATACGCAATATACG",
        "lead of a record\nACGATCAGCTACGACTGACTACGACTACTACTACGACTACGACTACGACTACGACATCGAC\nAC\n",
        ">x\r\nACGATCGATCAGCTACGACTACGAC\nACTACGACATCAGCATCAGCATACG\r\nACGATCAGCAGC\n",
        "acgatcagctacgactacgactacgactacgcatcg\nACgtaACGTACGATCATCAGCATCAacgNNNNNNNNNN\n",
        "@a\nACGTACGTACGAGCTAC\n+\nIIIIIIIIIIIIIIIII\n@b\n\n+\n\n@c\nA\n+\n!\n@d\nACGT\n+\n~~~~"};
    fv_ctx *ctx = vz_test_ctx(0, 0);
    for (size_t i = 0; i < FV_ARRAY_LEN(TEXTS); i++)
        CHECK_MSG(vz_round_trip(ctx, genes(3, TEXTS[i], strlen(TEXTS[i])), NULL) > 0, "%d", (int)i);
    CHECK(vz_round_trip(ctx, genes(3, "@\nACGTACGTAC\n+\nIIIIIIIII\n", 25), NULL) >= 0);
    CHECK(vz_round_trip(ctx, genes(3, ">\nMKVLAAGIVGLCAKRNGTQQ\n", 23), NULL) == 0);
    /* every cut of two files either fits or is declined */
    size_t n = make_fastq(1, 4);
    for (size_t cut = 0; cut < n; cut += 7)
        CHECK(vz_round_trip(ctx, genes(1, file + cut, n - cut), NULL) >= 0);
    n = make_fasta(3, 3, 100, 60);
    for (size_t cut = 0; cut < n; cut += 7)
        CHECK(vz_round_trip(ctx, genes(1, file, cut), NULL) >= 0);
    fv_ctx_destroy(&ctx);
}

static void segments_are_found_inside_of_files(void)
{
    uint32_t param = 0;
    const size_t n = make_fastq(0, 40);
    file[n] = 0;
    CHECK(vz_genes_detect(file, n + 1, false, &param) == n);
    CHECK(vz_genes_detect(file + 30, n - 30, false, &param) == 0);
    CHECK(vz_genes_detect(file + 30, n - 30, true, &param) == n - 30);
    for (size_t i = 0; i < 4000; i++) file[i] = (uint8_t)("> plain words, not bases\n"[i % 25]);
    CHECK(vz_genes_detect(file, 4000, true, &param) == 0);
    memset(file, '>', 4000);
    CHECK(vz_genes_detect(file, 4000, true, &param) == 0);
    memset(file, '\n', 4000);
    fv_ctx *ctx = vz_test_ctx(0, 0);
    CHECK(vz_round_trip(ctx, genes(3, file, 4000), NULL) == 0);
    fv_ctx_destroy(&ctx);
}

/* Random bases cost two bits; a copy of them, on either strand and with mistakes, next to nothing.
 */
static void repeats_become_small(void)
{
    fv_ctx *ctx = vz_test_ctx(0, 0);
    const size_t half = 8000;
    uint64_t seed = 7;
    for (int level = 3; level <= 9; level += 6)
        for (int inverted = 0; inverted < 2; inverted++) {
            memcpy(file, ">a\n", 3);
            for (size_t i = 0; i < half; i++)
                file[3 + i] = (uint8_t) "ACGT"[test_next(&seed) >> 30];
            for (size_t i = 0; i < half; i++) {
                const uint8_t c = file[3 + (inverted ? half - 1 - i : i)];
                const uint8_t other = c == 'A' ? 'T' : c == 'C' ? 'G' : c == 'G' ? 'C' : 'A';
                const uint8_t wrong = (uint8_t) "ACGT"[test_next(&seed) >> 30];
                file[3 + half + i] = i % 100 == 99 ? wrong : inverted ? other : c;
            }
            const int64_t n = vz_round_trip(ctx, genes(level, file, 3 + 2 * half), NULL);
            CHECK_MSG(n > 1990 && n < 2350, "level %d inverted %d: %d", level, inverted, (int)n);
        }
    fv_ctx_destroy(&ctx);
}

static void code_is_the_same_for_every_vector_width(void)
{
    const size_t n = make_fastq(3, 25);
    for (int level = 3; level <= 9; level += 6)
        same_code_for_every_vector_width(genes(level, file, n));
}

static void memory_is_at_most_what_was_declared(void)
{
    for (int level = 1; level <= 9; level += 4)
        for (int kind = 0; kind < 3; kind++) {
            const size_t n = kind == 2 ? make_fasta(1, 2, 8000, 60) : make_fastq(3 * kind, 60);
            memory_is_as_declared(genes(level, file, n));
        }
}

static void allocations_may_fail(void)
{
    each_allocation_may_fail(genes(1, file, make_fastq(4, 12)));
}

static void wrong_code_is_survived(void)
{
    wrong_codes_are_survived(genes(1, file, make_fastq(4, 10)));
    wrong_codes_are_survived(genes(1, file, make_fasta(2, 2, 500, 60)));
}

int main(void)
{
    RUN(every_form_returns_its_bytes);
    RUN(odd_lines_return_their_bytes);
    RUN(segments_are_found_inside_of_files);
    RUN(repeats_become_small);
    RUN(code_is_the_same_for_every_vector_width);
    RUN(memory_is_at_most_what_was_declared);
    RUN(allocations_may_fail);
    RUN(wrong_code_is_survived);
    return test_end();
}
