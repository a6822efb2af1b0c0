/* cm_rows.c - the walk over pages and rows of an SQLite database, for contexts.
 *
 * A segment that begins with "SQLite format 3" is followed page by page: header, pointers to cells,
 * cells. Pointers tell where cells begin; in a cell come lengths, the types of all columns, their
 * values. Each of these is a slot; what it held in the cell before is the byte above. Pages
 * of other uses and damaged files lead the walk astray, which costs bytes and no more.
 *
 * Source: "Database File Format", sqlite.org/fileformat2.html. */
#include "cm.h"

enum { NOTHING, CHILD, PAYLOAD, ROWID, HEADER, TYPES, VALUES };

bool vz_rows_begin_here(const uint8_t *data, size_t size)
{
    static const uint8_t MAGIC[16] = "SQLite format 3";
    if (size < 512 || memcmp(data, MAGIC, sizeof MAGIC) != 0) return false;
    const uint32_t page = (uint32_t)data[16] << 8 | data[17];
    return page == 1 || (page >= 512 && (page & (page - 1)) == 0);
}

static uint32_t slot_of(const vz_rows *r)
{
    return r->phase == VALUES ? VALUES + (r->column < VZ_ROWS_COLUMNS ? r->column : 0) : r->phase;
}

static void enter(vz_rows *r, uint32_t phase, uint32_t pos)
{
    r->phase = phase;
    r->value = 0;
    r->slot = slot_of(r);
    r->above = r->begin[r->slot];
    r->begin[r->slot] = pos;
}

static uint32_t bytes_of(uint32_t type)
{
    static const uint8_t BYTES[12] = {0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0};
    return type < 12 ? BYTES[type] : (type - 12) / 2;
}

static void next_value(vz_rows *r, uint32_t pos)
{
    while (r->column < r->columns && bytes_of(r->type[r->column]) == 0) r->column++;
    if (r->column >= r->columns) {
        enter(r, NOTHING, pos);
        return;
    }
    enter(r, VALUES, pos);
    r->left = bytes_of(r->type[r->column]);
}

static void cell_byte(vz_rows *r, uint32_t c, uint32_t pos)
{
    const bool is_end = c < 128;
    if (r->phase == VALUES) {
        if (--r->left > 0) return;
        r->column++;
        next_value(r, pos);
        return;
    }
    if (r->phase == CHILD) {
        if (--r->left == 0) enter(r, r->kind == 5 ? ROWID : PAYLOAD, pos);
        return;
    }
    r->value = r->value << 7 | (c & 127);
    r->left -= r->phase == TYPES && r->left > 0;
    if (!is_end) return;
    const uint32_t value = r->value;
    switch (r->phase) {
    case PAYLOAD: enter(r, r->kind == 13 ? ROWID : HEADER, pos); break;
    case ROWID: enter(r, r->kind == 5 ? NOTHING : HEADER, pos); break;
    case HEADER:
        r->left = value > 1 && value < 4096 ? value - 1 : 0;
        r->columns = r->column = 0;
        enter(r, r->left ? TYPES : NOTHING, pos);
        break;
    case TYPES:
        r->value = 0;
        if (r->columns < VZ_ROWS_COLUMNS) r->type[r->columns++] = value;
        if (r->left == 0) next_value(r, pos);
        break;
    default: break;
    }
}

/* at: of the byte c in its page; base: where the page's header begins. */
static void page_byte(vz_rows *r, uint32_t c, uint32_t at, uint32_t base)
{
    if (at == 0) {
        memset(r->starts, 0, sizeof r->starts);
        r->phase = r->slot = NOTHING;
        r->cells = 0;
    }
    if (at == base) r->kind = c;
    if (at < base + 3) return;
    const uint32_t place = at - base, head = r->kind == 2 || r->kind == 5 ? 12 : 8;
    if (place == 3 || place == 4) r->cells = (r->cells << 8 | c) & 0xffff;
    if (place >= head && place < head + 2 * r->cells) {
        r->pointer = (r->pointer << 8 | c) & 0xffff;
        if ((place - head) % 2) r->starts[r->pointer >> 3] |= (uint8_t)(1 << (r->pointer & 7));
    }
}

void vz_rows_byte(vz_rows *r, uint32_t c, uint32_t pos)
{
    const uint32_t offset = pos - 1 - r->start, at = offset % r->page;
    const uint32_t next = (at + 1) % r->page;
    page_byte(r, c, at, offset < r->page ? 100 : 0);
    if (r->phase != NOTHING) cell_byte(r, c, pos);
    if (next && next < 65536 && (r->starts[next >> 3] >> (next & 7) & 1)) {
        const bool has_child = r->kind == 2 || r->kind == 5;
        enter(r, has_child ? CHILD : PAYLOAD, pos);
        r->left = 4;
    }
    const uint32_t head = r->kind == 2 || r->kind == 5 ? 12 : 8;
    r->zone = r->phase != NOTHING ? 0 : next < head + 2 * r->cells ? 1 + (next & 1) : 3;
}

/* The segment's first 18 bytes have been coded. */
void vz_rows_start(vz_rows *r, const uint8_t *head, uint32_t pos)
{
    memset(r, 0, sizeof *r);
    if (!vz_rows_begin_here(head, 512)) return;
    r->page = (uint32_t)head[16] << 8 | head[17];
    if (r->page == 1) r->page = 65536;
    r->start = pos;
    r->is_on = true;
}
