/* image_text.c - text entries of pictures and their form as an XMP packet.
 *
 * The library has one rule for all formats, PNG's: a key is a Latin-1 keyword of at most 79 bytes,
 * a value is UTF-8. A format without such entries (WebP, and JPEG for foreign packets) carries
 * XMP, an RDF document. Each entry becomes one property of our own name space, which every metadata
 * viewer shows:
 *
 *     <rdf:Description rdf:about="" xmlns:fovea="urn:fovea:text#">
 *     <fovea:Creation_x20_Time>2024-05-01</fovea:Creation_x20_Time>
 *
 * Bytes of a key that an XML name cannot hold are written _xHH_. Reading is the reverse by a plain
 * scan for "<fovea:"; a general XML parser would be a large surface for hostile input and would
 * gain nothing, because a packet of somebody else is kept whole under PNG's keyword for XMP. */
#include "image_codec.h"
#include "utf8.h"

#include <string.h>

/* A file may hold any number of entries, a picture keeps the first thousand (as libpng does). */
#define TEXT_FROM_FILE_MAX 1000

#define NAME_SPACE "urn:fovea:text#"
#define ELEMENT_OPEN "<fovea:"
#define ELEMENT_CLOSE "</fovea:"

/* ---- Rules ----------------------------------------------------------------------------------- */

bool fvi_text_key_ok(const char *key, size_t n)
{
    if (n < 1 || n > FVI_TEXT_KEY_MAX || key[0] == ' ' || key[n - 1] == ' ') return false;
    for (size_t i = 0; i < n; i++) {
        const uint8_t c = (uint8_t)key[i];
        if (c < 0x20 || (c > 0x7e && c < 0xa1)) return false;
        if (c == ' ' && key[i + 1] == ' ') return false; /* i + 1 < n: the last byte is no space */
    }
    return true;
}

/* Length of the XML character at p, 0 if it is none. */
static size_t xml_char(const uint8_t *p, size_t n)
{
    if (p[0] < 0x20) return p[0] == '\t' || p[0] == '\n' || p[0] == '\r';
    const size_t k = fvi_utf8_step(p, n);
    if (k == 3 && p[0] == 0xef && p[1] == 0xbf && p[2] >= 0xbe) return 0; /* U+FFFE, U+FFFF */
    return k;
}

bool fvi_text_value_ok(const char *value, size_t n)
{
    const uint8_t *p = (const uint8_t *)value;
    for (size_t i = 0; i < n;) {
        const size_t k = xml_char(p + i, n - i);
        if (k == 0) return false;
        i += k;
    }
    return true;
}

/* ---- Entries --------------------------------------------------------------------------------- */

/* Takes both strings over, also on failure. */
static fv_status add_owned(fv_ctx *ctx, fv_image *img, char *key, char *value)
{
    const size_t old = 2 * (size_t)img->text_count * sizeof *img->text;
    char **t = key && value ? fv_realloc(ctx, img->text, old, old + 2 * sizeof *t) : NULL;
    if (!t) {
        fv_free(ctx, key);
        fv_free(ctx, value);
        return FV_ERR_OOM;
    }
    t[2 * img->text_count] = key;
    t[2 * img->text_count + 1] = value;
    img->text = t;
    img->text_count++;
    return FV_OK;
}

fv_status fv_image_add_text(fv_ctx *ctx, fv_image *img, const char *key, const char *value)
{
    if (!img || !key || !value)
        return fv_fail(ctx, FV_ERR_ARG, "fv_image_add_text: an argument is NULL");
    if (!fvi_text_key_ok(key, strlen(key)))
        return fv_fail(ctx, FV_ERR_ARG,
                       "picture text key \"%.80s\": must be 1 to 79 printable Latin-1 "
                       "characters without double, leading or trailing spaces",
                       key);
    if (!fvi_text_value_ok(value, strlen(value)))
        return fv_fail(ctx, FV_ERR_ARG,
                       "picture text \"%s\": the value is not UTF-8 text, or has control "
                       "characters",
                       key);
    char *k = fv_strdup(ctx, key);
    return add_owned(ctx, img, k, k ? fv_strdup(ctx, value) : NULL);
}

const char *fv_image_text(const fv_image *img, const char *key)
{
    if (!img || !key) return NULL;
    for (int i = 0; i < img->text_count; i++)
        if (strcmp(img->text[2 * i], key) == 0) return img->text[2 * i + 1];
    return NULL;
}

/* Well-formed UTF-8 with control characters becomes a value; U+FFFE and U+FFFF become U+FFFD. */
static void clean_utf8(uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        const size_t k = xml_char(p + i, n - i);
        if (k == 0 && p[i] < 0x20)
            p[i] = ' ';
        else if (k == 0)
            p[i + 2] = 0xbd;
        i += k; /* 0: look at the repaired character again */
    }
}

fv_status fvi_image_text_from_file(fv_ctx *ctx, fv_image *img, const char *key, size_t key_bytes,
                                   const void *value, size_t value_bytes, bool latin1)
{
    if (!fvi_text_key_ok(key, key_bytes) || img->text_count >= TEXT_FROM_FILE_MAX) return FV_OK;
    const uint8_t *end = value_bytes ? memchr(value, 0, value_bytes) : NULL;
    const size_t n = end ? (size_t)(end - (const uint8_t *)value) : value_bytes;
    fvi_bytes b = {.ctx = ctx};
    const bool ok = !latin1 && fvi_utf8_valid(value, n) ? fvi_bytes_add(&b, value, n)
                                                        : fvi_latin1_to_utf8(&b, value, n);
    if (!ok || !fvi_bytes_add(&b, "", 1)) {
        fvi_bytes_free(&b);
        return FV_ERR_OOM;
    }
    clean_utf8(b.data, b.size - 1);
    char *k = fv_alloc(ctx, key_bytes + 1);
    if (k) {
        memcpy(k, key, key_bytes);
        k[key_bytes] = 0;
    }
    /* b grew in steps: keep no more than needed, and one strdup is simpler than shrinking */
    char *v = k ? fv_strdup(ctx, (const char *)b.data) : NULL;
    fvi_bytes_free(&b);
    return add_owned(ctx, img, k, v);
}

/* ---- Latin-1 --------------------------------------------------------------------------------- */

bool fvi_utf8_to_latin1(fvi_bytes *out, const char *s, bool *oom)
{
    const size_t start = out->size;
    *oom = false;
    for (const uint8_t *p = (const uint8_t *)s; *p;) {
        uint8_t c = *p++;
        bool fits = c == '\n' || (c >= 0x20 && c < 0x7f);
        if (c == 0xc2 || c == 0xc3) { /* U+0080..U+00FF; the value is well formed */
            c = (uint8_t)((c & 3) << 6 | (*p++ & 0x3f));
            fits = c >= 0xa0;
        }
        if (fits) *oom = !fvi_bytes_add(out, &c, 1);
        if (!fits || *oom) {
            out->size = start;
            return false;
        }
    }
    return true;
}

bool fvi_latin1_to_utf8(fvi_bytes *out, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const uint8_t c = (uint8_t)s[i];
        const uint8_t two[2] = {(uint8_t)(0xc0 | c >> 6), (uint8_t)(0x80 | (c & 0x3f))};
        if (!(c < 0x80 ? fvi_bytes_add(out, &c, 1) : fvi_bytes_add(out, two, 2))) return false;
    }
    return true;
}

/* ---- XMP ------------------------------------------------------------------------------------- */

static bool is_alpha(uint8_t c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}
static bool is_digit(uint8_t c)
{
    return c >= '0' && c <= '9';
}

static int hex_value(uint8_t c)
{
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static bool write_name(fvi_bytes *out, const char *key)
{
    for (const char *p = key; *p; p++) {
        const uint8_t c = (uint8_t)*p;
        const bool inner = p > key && (is_digit(c) || c == '-' || c == '.');
        const bool plain = is_alpha(c) || inner || (c == '_' && p[1] != 'x');
        char esc[8];
        snprintf(esc, sizeof esc, "_x%02X_", (unsigned)c);
        if (!(plain ? fvi_bytes_add(out, p, 1) : fvi_bytes_str(out, esc))) return false;
    }
    return true;
}

/* The key of an element name; 0 if it is longer than a key can be. out: FVI_TEXT_KEY_MAX bytes. */
static size_t read_name(char *out, const uint8_t *name, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n; k++) {
        if (k == FVI_TEXT_KEY_MAX) return 0;
        const bool escaped = n - i >= 5 && name[i] == '_' && name[i + 1] == 'x' &&
                             name[i + 4] == '_' && hex_value(name[i + 2]) >= 0 &&
                             hex_value(name[i + 3]) >= 0;
        out[k] =
            escaped ? (char)(hex_value(name[i + 2]) * 16 + hex_value(name[i + 3])) : (char)name[i];
        i += escaped ? 5 : 1;
    }
    return k;
}

static const struct {
    char c;
    const char *entity;
} entities[] = {
    {'&', "&amp;"},   {'<', "&lt;"},   {'>', "&gt;"}, {'"', "&quot;"},
    {'\'', "&apos;"}, {'\r', "&#13;"}, /* a parser would turn it into a line feed */
};

static bool write_escaped(fvi_bytes *out, const char *s)
{
    for (; *s; s++) {
        const char *e = NULL;
        for (size_t i = 0; i < FV_ARRAY_LEN(entities); i++)
            if (*s == entities[i].c) e = entities[i].entity;
        if (!(e ? fvi_bytes_str(out, e) : fvi_bytes_add(out, s, 1))) return false;
    }
    return true;
}

static bool read_escaped(fvi_bytes *out, const uint8_t *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        char c = (char)s[i];
        size_t step = 1;
        for (size_t k = 0; s[i] == '&' && k < FV_ARRAY_LEN(entities); k++) {
            const size_t len = strlen(entities[k].entity);
            if (n - i >= len && memcmp(s + i, entities[k].entity, len) == 0) {
                c = entities[k].c;
                step = len;
                break;
            }
        }
        if (!fvi_bytes_add(out, &c, 1)) return false;
        i += step;
    }
    return true;
}

fv_status fvi_xmp_write(const fv_image *img, fvi_bytes *out)
{
    if (img->text_count == 1 &&
        strcmp(img->text[0], FVI_XMP_KEY) == 0) /* a foreign packet, as it came */
        return fvi_bytes_str(out, img->text[1]) ? FV_OK : FV_ERR_OOM;
    bool ok =
        fvi_bytes_str(out, "<?xpacket begin=\"\xef\xbb\xbf\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n"
                           "<x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\n"
                           "<rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\n"
                           "<rdf:Description rdf:about=\"\" xmlns:fovea=\"" NAME_SPACE "\">\n");
    for (int i = 0; ok && i < img->text_count; i++) {
        const char *key = img->text[2 * i];
        ok = fvi_bytes_str(out, ELEMENT_OPEN) && write_name(out, key) && fvi_bytes_str(out, ">") &&
             write_escaped(out, img->text[2 * i + 1]) && fvi_bytes_str(out, ELEMENT_CLOSE) &&
             write_name(out, key) && fvi_bytes_str(out, ">\n");
    }
    ok = ok && fvi_bytes_str(
                   out, "</rdf:Description>\n</rdf:RDF>\n</x:xmpmeta>\n<?xpacket end=\"w\"?>\n");
    return ok ? FV_OK : FV_ERR_OOM;
}

/* First occurrence of the string in [p, end), or end. */
static const uint8_t *find(const uint8_t *p, const uint8_t *end, const char *what)
{
    const size_t n = strlen(what);
    while ((size_t)(end - p) >= n) {
        const uint8_t *q = memchr(p, what[0], (size_t)(end - p) - n + 1);
        if (!q) break;
        if (memcmp(q, what, n) == 0) return q;
        p = q + 1;
    }
    return end;
}

/* One element whose name starts at `name`: adds it and returns where to go on. */
static const uint8_t *read_element(fv_ctx *ctx, fv_image *img, const uint8_t *name,
                                   const uint8_t *end, fv_status *s)
{
    const size_t close_bytes = strlen(ELEMENT_CLOSE);
    const uint8_t *gt = find(name, end, ">");
    if (gt == end) return end;
    const uint8_t *value = gt + 1, *lt = find(value, end, "<");
    const size_t name_bytes = (size_t)(gt - name), value_bytes = (size_t)(lt - value);
    if ((size_t)(end - lt) < close_bytes + name_bytes + 1 ||
        memcmp(lt, ELEMENT_CLOSE, close_bytes) != 0 ||
        memcmp(lt + close_bytes, name, name_bytes) != 0 || lt[close_bytes + name_bytes] != '>')
        return value;
    char key[FVI_TEXT_KEY_MAX];
    const size_t key_bytes = read_name(key, name, name_bytes);
    fvi_bytes b = {.ctx = ctx};
    if (!read_escaped(&b, value, value_bytes))
        *s = FV_ERR_OOM;
    else
        *s = fvi_image_text_from_file(ctx, img, key, key_bytes, b.data, b.size, false);
    fvi_bytes_free(&b);
    return lt;
}

fv_status fvi_xmp_read(fv_ctx *ctx, fv_image *img, const void *packet, size_t n)
{
    const uint8_t *p = packet, *end = p + n;
    const int before = img->text_count;
    fv_status s = FV_OK;
    const bool ours = find(p, end, "\"" NAME_SPACE "\"") != end;
    while (ours && s == FV_OK && (p = find(p, end, ELEMENT_OPEN)) != end)
        p = read_element(ctx, img, p + strlen(ELEMENT_OPEN), end, &s);
    if (s != FV_OK || img->text_count > before || n == 0) return s;
    return fvi_image_text_from_file(ctx, img, FVI_XMP_KEY, strlen(FVI_XMP_KEY), packet, n, false);
}
