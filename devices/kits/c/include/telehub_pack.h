/* Writes SenML packs in CBOR into a buffer of yours (RFC 8428, integer labels). */
#ifndef TELEHUB_PACK_H
#define TELEHUB_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct telehub_pack {
    uint8_t *bytes;
    size_t room, len;
    bool full; /* Something did not fit: do not send it. */
};

static inline void telehub_pack_byte(struct telehub_pack *pack, uint8_t byte)
{
    if (pack->len < pack->room) {
        pack->bytes[pack->len++] = byte;
    } else {
        pack->full = true;
    }
}

static inline void telehub_pack_head(struct telehub_pack *pack, uint8_t major, uint32_t value)
{
    int size = value < 24 ? 0 : value < 0x100 ? 1 : value < 0x10000 ? 2 : 4;
    telehub_pack_byte(pack, (uint8_t)(major << 5 | (size == 0   ? (int)value
                                                    : size == 1 ? 24
                                                    : size == 2 ? 25
                                                                : 26)));
    while (size--) {
        telehub_pack_byte(pack, (uint8_t)(value >> (8 * size)));
    }
}

static inline void telehub_pack_text(struct telehub_pack *pack, const char *text)
{
    size_t len = strlen(text);
    telehub_pack_head(pack, 3, (uint32_t)len);
    while (len--) {
        telehub_pack_byte(pack, (uint8_t)*text++);
    }
}

static inline void telehub_pack_int(struct telehub_pack *pack, int32_t value)
{
    telehub_pack_head(pack, value < 0, value < 0 ? ~(uint32_t)value : (uint32_t)value);
}

/* A pack of so many records, which must follow. */
static inline struct telehub_pack telehub_pack_begin(uint8_t *bytes, size_t room, uint8_t records)
{
    struct telehub_pack pack = {bytes, room, 0, false};
    telehub_pack_head(&pack, 4, records);
    return pack;
}

static inline void telehub_pack_name(struct telehub_pack *pack, const char *name, const char *unit)
{
    telehub_pack_head(pack, 5, unit ? 3 : 2);
    telehub_pack_head(pack, 0, 0);
    telehub_pack_text(pack, name);
    if (unit) {
        telehub_pack_head(pack, 0, 1);
        telehub_pack_text(pack, unit);
    }
}

/* A whole number. `unit` may be NULL. */
static inline void telehub_pack_whole(struct telehub_pack *pack, const char *name,
                                      const char *unit, int32_t value)
{
    telehub_pack_name(pack, name, unit);
    telehub_pack_head(pack, 0, 2);
    telehub_pack_int(pack, value);
}

/* A number in single precision. For times it is too coarse: leave them to `age`. */
static inline void telehub_pack_float(struct telehub_pack *pack, const char *name,
                                      const char *unit, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    telehub_pack_name(pack, name, unit);
    telehub_pack_head(pack, 0, 2);
    telehub_pack_byte(pack, 0xfa);
    for (int shift = 24; shift >= 0; shift -= 8) {
        telehub_pack_byte(pack, (uint8_t)(bits >> shift));
    }
}

/* A text. */
static inline void telehub_pack_string(struct telehub_pack *pack, const char *name, const char *value)
{
    telehub_pack_name(pack, name, NULL);
    telehub_pack_head(pack, 0, 3);
    telehub_pack_text(pack, value);
}

static inline void telehub_pack_bool(struct telehub_pack *pack, const char *name, bool value)
{
    telehub_pack_name(pack, name, NULL);
    telehub_pack_head(pack, 0, 4);
    telehub_pack_byte(pack, value ? 0xf5 : 0xf4);
}

#endif
