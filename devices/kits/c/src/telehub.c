/* The core. One file, so that a compiler sees all of it and can make it small.
 *
 * Sending: a message is a function that emits its bytes one after the other. It is run once to
 * count them, and again each time there is room, emitting only those not yet sent: so no message
 * is ever held in memory, and a pack goes from the ring to the socket.
 *
 * Receiving: every byte goes through the frame, then through the item (CBOR), then to the field it
 * belongs to. Nothing but numbers and hashes of texts is kept, so a message may be of any length
 * and depth without costing memory.
 */
#include "telehub.h"

#include <string.h>

/* Milliseconds. */
#define WELCOME_TIMEOUT 30000 /* TCP is up, and no welcome. */
#define ACK_TIMEOUT 60000     /* Batches unacked, and no ack. */
#define SETTLED 60000         /* A connection that held so long was good. */
#define LONGEST_WISH 3600 /* Seconds. */

#define MAX_INPUT 65535   /* Bytes of a message; a hub that sends more is not one. */
#define ALONE 2           /* Closes with one batch alone in flight, until it is given up. */
#define RENUMBERED 16     /* New numbers after bad-seq on one connection. */
#define ENTRY 8           /* Bytes of a batch's head in the ring: length, tag, time. */
#define DEAD 0x8000       /* In the length: rejected, waits for its place to be the first. */

enum { OFFLINE, UPGRADING, GREETING, WELCOMED };
/* What is sent: first those that have a template, and with their opcodes those that are no messages.
 * The bits of `say` stand for what is to be said next. */
enum { TX_NONE, TX_REQUEST, TX_HELLO, TX_DATA, TX_BYE, TX_RESULT, TX_CLOSE = 8, TX_PONG = 10 };
enum { RX_NAME, RX_VALUE, RX_FIRST, RX_SECOND, RX_LENGTH, RX_LENGTH_END, RX_BODY, RX_DEAF };
enum { L_TOP, L_KIND, L_BODY, L_KEY, L_VALUE, L_DONE, L_BAD };
enum { OP_CONTINUATION = 0, OP_TEXT = 1, OP_BINARY = 2, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10 };
#define OPCODES 0x707 /* Bits of those that there are. */
enum { SLOT_FREE, SLOT_READING, SLOT_RUNNING, SLOT_RESULT, SLOT_SENT };

/* What a compiler would copy to where it is called, and should not. */
#ifdef __GNUC__
#define OUT_OF_LINE __attribute__((noinline))
#else
#define OUT_OF_LINE
#endif

#define NOTHING 0xffffffffu
#define A_THOUSANDTH 4294968u /* Of 2 to the power of 32. */
#define KEY 21   /* Characters of a key that are random: 126 of its 128 bits. */
#define PROOF 27 /* Characters of 20 bytes in base64, without the padding. */

/* The words of the hub that mean something here, those of its HTTP head with them. Values are kept
 * of those before `W_KEPT`. */
enum {
    W_SEQ, W_INTERVAL, W_TIMEOUT, W_MAX, W_RATE, W_WINDOW, W_STREAM, W_RESULT, W_CODE,
    W_KEPT, W_WELCOME = W_KEPT, W_ACK, W_REJECT,
#if TELEHUB_COMMANDS
    W_COMMAND, W_ID, W_NAME, W_ARGS,
#endif
    W_HTTP_10, W_HTTP_11, W_RETRY, W_ACCEPT, W_OTHER
};
/* The lower half of their hashes; tests/test_core.c holds them to it. */
static const uint16_t WORDS[W_OTHER] = {
    0x0148, 0xa89b, 0xc249, 0xc4cd, 0x046c, 0x4241, 0x7fd9, 0xacb0, 0xd088,
    0xb9f7, 0x5656, 0xddaa,
#if TELEHUB_COMMANDS
    0x112e, 0xf354, 0x5c7a, 0xabb0,
#endif
    0x0127, 0xff94, 0x23da, 0x01af,
};
/* And of the codes of a reject. */
#define H_BAD_SEQ 0x8d51ba92u
#define H_UNKNOWN_KIND 0xcde4e312u
#define H_NONE 1u

/* FNV-1a, but from a number that costs less. */
static uint32_t hash_on(uint32_t hash, uint32_t byte) { return (hash ^ byte) * 16777619u; }

static uint32_t turn(uint32_t word, uint8_t by) { return word << by | word >> (32 - by); }

/* The upper half of the product, which is a share of `value`. */
static uint32_t share(uint32_t value, uint32_t of) { return (uint64_t)value * of >> 32; }

static uint32_t hash_text(const char *text)
{
    uint32_t hash = H_NONE;
    while (*text) {
        hash = hash_on(hash, (uint8_t)*text++);
    }
    return hash;
}

#if TELEHUB_COMMANDS
static uint32_t hash_of(const void *bytes, size_t len)
{
    const uint8_t *at = bytes;
    uint32_t hash = H_NONE;
    while (len--) {
        hash = hash_on(hash, *at++);
    }
    return hash;
}
#endif

/* A word has been read. */
OUT_OF_LINE static uint32_t word(struct telehub *h)
{
    uint32_t at = 0;
    while (at < W_OTHER && WORDS[at] != (uint16_t)h->hash) {
        at++;
    }
    return h->field = at;
}

static void tell(struct telehub *h, enum telehub_event event, uint_fast16_t tag)
{
    h->config->event(h->config->user, event, tag);
}

/* ---- The ring of batches ---- */

static uint_fast16_t wrap(uint32_t at) { return at & (TELEHUB_QUEUE - 1); }

static uint32_t peek(const struct telehub *h, uint_fast16_t at, uint32_t count)
{
    uint32_t value = 0;
    while (count--) {
        value = value << 8 | h->ring[wrap(at++)];
    }
    return value;
}

static void poke(struct telehub *h, uint32_t value, uint32_t count)
{
    while (count--) {
        h->ring[wrap(h->head + h->bytes++)] = value >> (8 * count);
    }
}

/* Bytes of the batch there, with its head. */
static uint_fast16_t size_at(const struct telehub *h, uint_fast16_t at)
{
    return ENTRY + (peek(h, at, 2) & ~DEAD);
}

/* Where the batch stands that has this many before it. */
static uint_fast16_t entry_at(const struct telehub *h, uint_fast16_t index)
{
    uint_fast16_t at = h->head;
    while (index--) {
        at = wrap(at + size_at(h, at));
    }
    return at;
}

/* Takes the first batch out, and dead ones behind it: the first is never dead. */
static void pop(struct telehub *h)
{
    do {
        uint_fast16_t size = size_at(h, h->head);
        h->head = wrap(h->head + size);
        h->bytes -= size;
        h->batches--;
        h->first++;
        if (h->flight) {
            h->flight--;
        }
    } while (h->batches && h->ring[h->head] & (DEAD >> 8));
}

/* Tells what has become of the batch there. */
static void tell_of(struct telehub *h, enum telehub_event event, uint_fast16_t at)
{
    tell(h, event, peek(h, at + 2, 2));
}

/* Takes a batch out of the middle. */
static void give_up(struct telehub *h, uint_fast16_t at, bool told)
{
    h->ring[at] |= DEAD >> 8;
    if (told) {
        tell_of(h, TELEHUB_REJECTED, at);
    }
    if (at == h->head) {
        pop(h);
    }
}

bool telehub_room(const struct telehub *h, size_t len)
{
    return len + ENTRY <= (size_t)(TELEHUB_QUEUE - h->bytes);
}

/* Leaves the hub, with a close code or without. */
OUT_OF_LINE static void leave(struct telehub *h, uint_fast16_t code)
{
    h->say = code ? 1 << TX_CLOSE : 0;
    h->bye = code;
    h->rx = RX_DEAF;
}

OUT_OF_LINE static void fault(struct telehub *h, uint_fast16_t code)
{
    if (h->rx != RX_DEAF) {
        tell(h, TELEHUB_FAULT, code);
        leave(h, h->phase >= GREETING ? code : 0);
    }
}

bool telehub_put(struct telehub *h, const uint8_t *pack, size_t len, uint16_t tag, uint32_t now)
{
    if (len + ENTRY > TELEHUB_QUEUE) {
        return false;
    }
    while (!telehub_room(h, len)) {
        if (h->tx == TX_DATA && h->tx_entry == h->head) {
            /* Half of it is sent; the rest will be overwritten. */
            h->tx = TX_NONE;
            fault(h, 0);
        }
        tell_of(h, TELEHUB_DROPPED, h->head);
        pop(h);
    }
    poke(h, len << 16 | tag, 4);
    poke(h, now, 4);
    while (len--) {
        poke(h, *pack++, 1);
    }
    h->batches++;
    return true;
}

bool telehub_idle(const struct telehub *h)
{
#if TELEHUB_COMMANDS
    for (int slot = 0; slot < TELEHUB_COMMANDS; slot++) {
        if (h->slots[slot].state > SLOT_READING) {
            return false;
        }
    }
#endif
    return !h->batches;
}

void telehub_leave(struct telehub *h, uint16_t sleep)
{
    h->leaving = true;
    h->sleep = sleep;
}

/* ---- The proof that the other end speaks WebSocket (RFC 6455 §4.1) ---- */

/* The character of base64 for six bits. */
static uint32_t base64(uint32_t sextet)
{
    return sextet < 26 ? sextet + 'A' : sextet < 52 ? sextet - 26 + 'a'
         : sextet < 62 ? sextet - 52 + '0' : sextet == 62 ? '+' : '/';
}

#if TELEHUB_PROOF
/* SHA-1 of a text that fills two blocks with its padding. What a round needs is kept in one array that
 * moves by a place each round: the last 16 words of the text, and behind them SHA-1's state, its first
 * word last. */
static void sha1(const uint8_t *text, uint32_t digest[5])
{
    static const uint32_t K[4] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
    static const uint32_t FIRST[5] = {0xc3d2e1f0, 0x10325476, 0x98badcfe, 0xefcdab89, 0x67452301};
    uint32_t all[16 + 5], *state = all + 16;
    memcpy(digest, FIRST, sizeof FIRST);
    do {
        memcpy(state, digest, sizeof FIRST);
        for (uint32_t round = 0; round < 80; round++) {
            uint32_t b = state[3], c = state[2], d = state[1], kind = round / 20, word, sum;
            if (round < 16) {
                word = (uint32_t)text[0] << 24 | text[1] << 16 | text[2] << 8 | text[3];
                text += 4;
            } else {
                word = turn(all[0] ^ all[2] ^ all[8] ^ all[13], 1);
            }
            sum = word + turn(state[4], 5) + state[0] + K[kind];
            state[3] = turn(b, 30);
            if (kind == 2) {
                /* The majority: where two differ the third decides. */
                uint32_t kept = b;
                b ^= c;
                c = d;
                d = kept;
            }
            sum += kind & 1 ? b ^ c ^ d : d ^ (b & (c ^ d));
            for (int at = 0; at < 20; at++) {
                all[at] = all[at + 1];
            }
            all[15] = word;
            state[4] = sum;
        }
        for (int at = 0; at < 5; at++) {
            digest[at] += state[at];
        }
    } while (!text[-1]); /* The last byte of the length is not zero. */
}

/* The next character of the proof in base64, behind which stands `=`. */
static uint32_t proof(struct telehub *h)
{
    uint32_t sextet = h->proof[5] >> 26;
    for (int at = 5; at > 0; at--) {
        h->proof[at] = h->proof[at] << 6 | h->proof[at - 1] >> 26;
    }
    return h->arg++ < PROOF ? base64(sextet) : '=';
}
#endif

/* Makes the key of the next upgrade, which stays in `ctl` until it is sent, and its proof. */
static void make_key(struct telehub *h)
{
    /* What is left of the key, RFC 6455's GUID, and the bit that ends a text in SHA-1. */
    static const char REST[] = "A==258EAFA5-E914-47DA-95CA-C5AB0DC85B11\x80";
    memset(h->ctl, 0, sizeof h->ctl);
    for (uint32_t at = 0; at < KEY; at++) {
        h->ctl[at] = base64(h->config->random(h->config->user) & 63);
    }
    memcpy(h->ctl + KEY, REST, sizeof REST - 1);
#if TELEHUB_PROOF
    /* Its length in bits, at the end of two blocks. */
    h->ctl[126] = 60 * 8 >> 8;
    h->ctl[127] = 60 * 8 & 0xff;
    sha1(h->ctl, h->proof + 1);
#endif
}

/* ---- When to come back ---- */

/* How long, by close code or HTTP status: each line for its code and those above it. */
enum { USUAL, SHORT, LONG, HOUR };
#define FROM(code, pause) ((code) << 2 | (pause))
static const uint16_t PAUSES[] = {
    FROM(4004, USUAL), FROM(4001, LONG), FROM(1014, USUAL), FROM(1013, SHORT), FROM(1010, USUAL),
    FROM(1009, SHORT), FROM(1002, LONG), FROM(1001, SHORT), FROM(500, USUAL), FROM(430, HOUR),
    FROM(429, USUAL), FROM(400, HOUR), FROM(0, USUAL),
};

/* Each is a number of steps, doubled so many times at most while nothing is acked, and as much again
 * is jitter: half a second to a minute, 2 to 5 s, 1 to 16 min, and 1 to 2 h. */
#define STEP 450
static const struct { uint16_t steps; uint8_t doubled; } SPANS[] = {{1, 6}, {5, 0}, {134, 3}, {8000, 0}};

static uint32_t pause_after(const struct telehub *h)
{
    const uint16_t *pause = PAUSES;
    while (h->code < *pause >> 2) {
        pause++;
    }
    uint32_t span = SPANS[*pause & 3].steps * STEP, doubled = SPANS[*pause & 3].doubled;
    if (h->wish) {
        span = h->wish * 1000;
        doubled = 0;
    }
    span <<= h->failures < doubled ? h->failures : doubled;
    return span + share(span, h->config->random(h->config->user));
}

/* An end that speaks of a fault with a batch. Blame needs proof: it was alone in flight, twice. */
static void blame(struct telehub *h)
{
    if (h->flight != 1) {
        h->careful = true;
        h->alone = 0;
    } else if (++h->alone >= ALONE) {
        h->alone = 0;
        give_up(h, h->head, true);
    }
}

static void line_begun(struct telehub *h)
{
    h->rx = RX_NAME;
    h->hash = H_NONE;
    h->arg = 0;
}

void telehub_connected(struct telehub *h, uint32_t now)
{
    h->phase = UPGRADING;
    h->say = 1 << TX_REQUEST;
    h->message = 0;
    h->heard = now;
    h->acked = now - (ACK_TIMEOUT - WELCOME_TIMEOUT);
    h->rx_fin = 1;
    h->silence = WELCOME_TIMEOUT;
    line_begun(h);
    make_key(h);
}

void telehub_disconnected(struct telehub *h, uint32_t now)
{
    if (h->phase == WELCOMED && now - h->since >= SETTLED) {
        h->failures = 0;
    }
    if (h->code == 1007 || h->code == 1009) {
        blame(h);
    }
    if (h->code == 4002 && !h->stopped) {
        h->stopped = true;
        tell(h, TELEHUB_STOPPED, 0);
    }
    h->retry = now + pause_after(h);
    h->code = 0;
    h->wish = 0;
    h->failures += h->failures < 20;
    h->phase = OFFLINE;
    h->say = 0;
    h->accepted = false;
    h->flight = 0;
    h->tx = TX_NONE;
#if TELEHUB_COMMANDS
    for (int slot = 0; slot < TELEHUB_COMMANDS; slot++) {
        struct telehub_slot *s = &h->slots[slot];
        s->state = s->state == SLOT_SENT ? SLOT_RESULT : s->state == SLOT_READING ? SLOT_FREE : s->state;
    }
#endif
}

uint32_t telehub_pause(const struct telehub *h, uint32_t now)
{
    int32_t left = (int32_t)(h->retry - now);
    return left > 0 ? (uint32_t)left : 0;
}

enum telehub_todo telehub_tick(struct telehub *h, uint32_t now)
{
    h->now = now;
    if (!h->phase) {
        if (h->stopped) {
            return TELEHUB_STOP;
        }
        return telehub_pause(h, now) ? TELEHUB_WAIT : TELEHUB_CONNECT;
    }
    if (now - h->heard >= h->silence ||
        ((h->phase < WELCOMED || h->flight) && now - h->acked >= ACK_TIMEOUT)) {
        fault(h, 0);
    }
    return h->rx == RX_DEAF ? TELEHUB_HANG_UP : TELEHUB_TALK;
}

void telehub_init(struct telehub *h, const struct telehub_config *config, uint32_t now)
{
    memset(h, 0, sizeof *h);
    h->config = config;
    h->first = h->next = 1;
    h->retry = h->now = now;
}

/* ---- Sending ---- */

static void emit(struct telehub *h, uint32_t byte)
{
    /* What is left out in front has places below zero, which are huge ones. */
    uint32_t place = h->tx_at++, mask = h->tx_mask;
    h->tx_mask = turn(mask, 24);
    if (place < h->tx_room) {
        h->tx_out[place] = byte ^ mask;
    }
}

static void emit_bytes(struct telehub *h, const void *bytes, size_t len)
{
    const uint8_t *at = bytes;
    while (len--) {
        emit(h, *at++);
    }
}

static void emit_number(struct telehub *h, uint32_t value, uint32_t size)
{
    while (size--) {
        emit(h, value >> (8 * size));
    }
}

static void emit_item(struct telehub *h, uint32_t major, uint32_t value)
{
    uint32_t info = value, size = 0;
    if (value >= 24) {
        info = 24 + (value > 0xff) + (value > 0xffff);
        size = 1 << (info - 24);
    }
    emit(h, major << 5 | info);
    emit_number(h, value, size);
}

/* Messages as templates: bytes as they are, and these, which are none of them: HTTP is ASCII, and
 * the heads of CBOR's maps and texts are above 0xa0 and below 0x80. */
#define I_HOST "\200"
#define I_ID "\201"
#define I_TOKEN "\202"
#define I_STREAM "\203"
#define I_CLOCK "\204"
#define I_NEXT "\205"
#define I_SEQ "\206"
#define I_AGE "\207"
#define I_SLEEP "\210"
#define I_KEY "\211"
#define I_PACK "\212"
#define I_MAX "\213"
enum { T_STREAM = 3, T_NEXT = 5, T_KEY = 9, T_PACK, T_MAX, T_END };

/* The texts stand in the configuration as their codes do, and the numbers in the state. */
typedef char texts_in_order[offsetof(struct telehub_config, clock) == 4 * sizeof(char *) ? 1 : -1];
typedef char numbers_in_order[
    offsetof(struct telehub, sleep) - offsetof(struct telehub, next) == 12 ? 1 : -1];

/* In the order of TX_REQUEST to TX_BYE, each ended by a zero. */
static const char TEMPLATES[] =
    "GET /v1/devices/" I_ID " HTTP/1.1\r\nHost: " I_HOST "\r\nAuthorization: Bearer " I_TOKEN
    "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: " I_KEY "\r\n\r\n\0"
    "\xa1\x65hello"
#if TELEHUB_COMMANDS
    "\xa4\x6bmax_message" I_MAX
#else
    "\xa3"
#endif
    "\x66stream" I_STREAM "\x64next" I_NEXT "\x65" "clock" I_CLOCK "\0"
    "\xa1\x64" "data\xa3\x63seq" I_SEQ "\x63" "age" I_AGE "\x64pack" I_PACK "\0"
    "\xa1\x63" "bye\xa1\x65sleep" I_SLEEP;

static void emit_pack(struct telehub *h)
{
    uint_fast16_t size = size_at(h, h->tx_entry);
    for (uint_fast16_t at = ENTRY; at < size; at++) {
        emit(h, h->ring[wrap(h->tx_entry + at)]);
    }
}

static void emit_template(struct telehub *h)
{
    const char *template = TEMPLATES;
    uint32_t code;
    for (uint32_t tx = TX_REQUEST; tx < h->tx; tx++) {
        template += strlen(template) + 1;
    }
    while ((code = (uint8_t)*template++)) {
        uint32_t insert = code - 0x80;
        if (insert >= T_END) {
            emit(h, code);
        } else if (insert < T_NEXT) {
            const char *text = (&h->config->host)[insert];
            size_t len = strlen(text);
            if (insert >= T_STREAM) {
                emit_item(h, 3, len);
            }
            emit_bytes(h, text, len);
        } else if (insert < T_KEY) {
            emit_item(h, 0, (&h->next)[insert - T_NEXT]);
        } else if (insert == T_KEY) {
            emit_bytes(h, h->ctl, KEY + 3);
#if TELEHUB_COMMANDS
        } else if (insert == T_MAX) {
            emit_item(h, 0, TELEHUB_COMMAND_SIZE);
#endif
        } else {
            emit_pack(h);
        }
    }
}

#if TELEHUB_COMMANDS
static void emit_string(struct telehub *h, const char *text)
{
    size_t len = strlen(text);
    emit_item(h, 3, len);
    emit_bytes(h, text, len);
}

static void emit_part(struct telehub *h, const char *key, uint32_t from, uint32_t len, bool raw)
{
    const struct telehub_slot *s = &h->slots[h->slot_tx - 1];
    emit_string(h, key);
    if (!raw) {
        emit_item(h, 3, len);
    }
    emit_bytes(h, s->bytes + from, len);
}

static void emit_result(struct telehub *h)
{
    const struct telehub_slot *s = &h->slots[h->slot_tx - 1];
    /* `ok` is 0 or 1, and 2 more where the value was too large. */
    bool large = s->ok & 2;
    emit_item(h, 5, 1);
    emit_string(h, "result");
    emit_item(h, 5, 3 + (large || s->args_len));
    emit_part(h, "id", s->id, s->id_len, false);
    emit_part(h, "name", s->name, s->name_len, false);
    emit_string(h, "ok");
    emit(h, s->ok & 1 ? 0xf5 : 0xf4);
    if (large) {
        emit_string(h, "error");
        emit_string(h, "too-large");
    } else if (s->args_len) {
        emit_part(h, s->ok ? "value" : "error", s->args, s->args_len, true);
    }
}
#endif

static void emit_message(struct telehub *h)
{
    switch (h->tx) {
    case TX_PONG:
        emit_bytes(h, h->ctl, h->ctl_len);
        break;
    case TX_CLOSE:
        emit_number(h, h->bye, 2);
        break;
#if TELEHUB_COMMANDS
    case TX_RESULT:
        emit_result(h);
        break;
#endif
    default:
        emit_template(h);
        break;
    }
}

/* What to say next. */
static uint32_t choose(struct telehub *h)
{
    if (h->say) {
        uint32_t tx = TX_REQUEST;
        while (!(h->say >> tx & 1)) {
            tx++;
        }
        h->say ^= 1 << tx;
        return tx;
    }
    if (h->rx == RX_DEAF || h->phase < WELCOMED || h->now - h->paced < h->spacing) {
        return TX_NONE;
    }
#if TELEHUB_COMMANDS
    for (int slot = 0; slot < TELEHUB_COMMANDS; slot++) {
        if (h->slots[slot].state == SLOT_RESULT) {
            h->slots[slot].state = SLOT_SENT;
            h->slot_tx = slot + 1;
            return TX_RESULT;
        }
    }
#endif
    while (h->flight < h->batches && h->flight <= (h->careful ? 0 : h->window)) {
        uint_fast16_t at = entry_at(h, h->flight);
        if (!h->flight) {
            h->acked = h->now;
        }
        h->sent = h->first + h->flight++;
        if (h->next <= h->sent) {
            h->next = h->sent + 1;
        }
        if (!(h->ring[at] & (DEAD >> 8))) {
            h->tx_entry = at;
            h->age = share(h->now - peek(h, at + 4, 4), A_THOUSANDTH);
            return TX_DATA;
        }
    }
    return h->leaving && telehub_idle(h) ? TX_BYE : TX_NONE;
}

static void begin(struct telehub *h, uint32_t tx)
{
    h->tx = tx;
    h->tx_skip = h->tx_room = h->tx_at = h->tx_head = 0;
    emit_message(h);
    h->tx_len = h->tx_at;
    if (tx == TX_REQUEST) {
        return;
    }
    if (tx == TX_DATA || tx == TX_RESULT) {
        h->paced = h->now;
        if (h->tx_len - 1 > h->largest) {
#if TELEHUB_COMMANDS
            struct telehub_slot *s = &h->slots[h->slot_tx - 1];
            if (tx == TX_RESULT) {
                h->tx = TX_NONE;
                if (!(s->ok & 2)) {
                    s->ok |= 2;
                    s->state = SLOT_RESULT;
                }
                return;
            }
#endif
            h->tx = TX_NONE;
            give_up(h, h->tx_entry, true);
            return;
        }
    }
    h->tx_head = h->tx_len > 125 ? 8 : 6;
    h->tx_len += h->tx_head;
    h->mask = h->config->random(h->config->user);
}

/* A frame's head, of 6 bytes or of 8, and masks what follows. */
static void emit_head(struct telehub *h)
{
    uint32_t len = h->tx_len - h->tx_head, first = 0x80 | (h->tx < TX_CLOSE ? OP_BINARY : h->tx);
    /* The second byte has the bit of the mask, and the length or that two bytes of it follow. */
    if (h->tx_head == 6) {
        emit_number(h, first << 8 | 0x80 | len, 2);
    } else {
        emit_number(h, first << 24 | 0xfe0000 | len, 4);
    }
    /* The mask is what it makes of zeros. */
    h->tx_mask = h->mask;
    emit_number(h, 0, 4);
}

static void finished(struct telehub *h)
{
    if (h->tx == TX_BYE) {
        h->stopped = true;
        leave(h, 1000);
    }
    h->tx = TX_NONE;
}

size_t telehub_output(struct telehub *h, uint8_t *out, size_t room, uint32_t now)
{
    size_t total = 0;
    h->now = now;
    while (total < room) {
        if (h->tx == TX_NONE) {
            uint32_t tx = choose(h);
            if (tx == TX_NONE) {
                break;
            }
            begin(h, tx);
            if (h->tx == TX_NONE) {
                continue;
            }
        }
        h->tx_out = out + total;
        h->tx_at = 0 - h->tx_skip;
        h->tx_room = room - total;
        h->tx_mask = 0;
        if (h->tx_head) {
            emit_head(h);
        }
        emit_message(h);
        uint32_t left = h->tx_len - h->tx_skip;
        uint32_t wrote = left < h->tx_room ? left : h->tx_room;
        total += wrote;
        h->tx_skip += wrote;
        if (h->tx_skip == h->tx_len) {
            finished(h);
        }
    }
    return total;
}

/* ---- The answer to the upgrade ---- */

static void head_ended(struct telehub *h)
{
    if (h->code == 101 && h->accepted) {
        h->code = 0;
        h->phase = GREETING;
        h->say = 1 << TX_HELLO;
        h->rx = RX_FIRST;
    } else {
        fault(h, h->code);
    }
}

/* A byte of the value of a line that means something: a proof, or a number. */
static void value_byte(struct telehub *h, uint32_t byte)
{
#if TELEHUB_PROOF
    if (h->field == W_ACCEPT) {
        if (byte != proof(h)) {
            h->field = W_OTHER;
        } else if (h->arg > PROOF) {
            h->accepted = true;
        }
        return;
    }
#endif
    byte -= '0';
    if (byte > 9) {
        h->field = W_OTHER;
        return;
    }
    h->arg = h->arg * 10 + byte;
    if (h->arg > LONGEST_WISH) {
        h->arg = LONGEST_WISH;
    }
    if (h->field == W_RETRY) {
        h->wish = h->arg;
    } else {
        h->code = h->arg;
    }
}

static void head_byte(struct telehub *h, uint32_t byte)
{
    bool blank = byte <= ' ';
    if (++h->message > MAX_INPUT) {
        fault(h, 0);
    } else if (byte == '\n') {
        if (h->rx == RX_NAME && h->hash == H_NONE) {
            head_ended(h);
        } else {
            line_begun(h);
        }
    } else if (h->rx == RX_NAME) {
        if (byte == ':' || byte == ' ') {
            h->rx = RX_VALUE;
            word(h);
#if !TELEHUB_PROOF
            if (h->field == W_ACCEPT) {
                h->accepted = true;
            }
#endif
        } else if (!blank) {
            /* In lower case. */
            h->hash = hash_on(h->hash, byte | 32);
        }
    } else if (h->field >= W_HTTP_10 && h->field < W_OTHER && !(blank && !h->arg)) {
        value_byte(h, byte);
    }
}

/* ---- Messages of the hub ---- */

static void batch_acked(struct telehub *h, uint32_t seq)
{
    if (seq > h->sent) {
        if (seq != NOTHING) {
            fault(h, 1002);
        }
        return;
    }
    while (h->flight && h->first <= seq) {
        pop(h);
        h->acked = h->now;
        h->failures = h->alone = 0;
        h->careful = false;
    }
}

/* A number of the welcome that is from 1 to 65535, or what is usual. */
static uint32_t told(const struct telehub *h, uint32_t word, uint32_t usual)
{
    uint32_t value = h->got[word];
    return value - 1 < 0xffff ? value : usual;
}

static void welcomed(struct telehub *h)
{
    uint32_t seq = h->got[W_SEQ], interval = told(h, W_INTERVAL, 20);
    if (h->phase != GREETING || h->say & 1 << TX_HELLO || seq >= NOTHING - 0x10000) {
        return;
    }
    if (h->got[W_STREAM] != hash_text(h->config->stream)) {
        fault(h, 1002);
        return;
    }
    if (seq >= h->next) {
        /* The counter was lost: nothing that is held has been taken. */
        h->first = h->next = seq + 1;
        tell(h, TELEHUB_RENUMBERED, 0);
    }
    while (h->batches && h->first <= seq) {
        pop(h);
    }
    h->flight = 0;
    h->sent = seq;
    h->window = h->got[W_WINDOW] - 1;
    h->largest = h->got[W_MAX] - 1;
    h->spacing = 1000 / told(h, W_RATE, 1000);
    h->silence = interval * 1250 + told(h, W_TIMEOUT, interval) * 1000;
    h->phase = WELCOMED;
    h->budget = RENUMBERED;
    h->since = h->acked = h->now;
    tell(h, TELEHUB_WELCOME, 0);
}

static void again(struct telehub *h, uint_fast16_t at)
{
    uint_fast16_t size = size_at(h, at);
    if (!h->budget || size + h->bytes > TELEHUB_QUEUE) {
        give_up(h, at, true);
        return;
    }
    h->budget--;
    for (uint_fast16_t byte = 0; byte < size; byte++) {
        poke(h, h->ring[wrap(at + byte)], 1);
    }
    h->batches++;
    give_up(h, at, false);
}

#if TELEHUB_COMMANDS
static void slot_settled(struct telehub *h, uint32_t id)
{
    for (int slot = 0; slot < TELEHUB_COMMANDS; slot++) {
        struct telehub_slot *s = &h->slots[slot];
        if (s->state == SLOT_SENT && hash_of(s->bytes + s->id, s->id_len) == id) {
            s->state = SLOT_FREE;
        }
    }
}
#endif

static void rejected(struct telehub *h)
{
    uint32_t index = h->got[W_SEQ] - h->first;
    if (h->got[W_SEQ] == NOTHING) {
        if (h->got[W_CODE] == H_UNKNOWN_KIND) {
            return;
        }
        if (h->flight != 1) {
            h->careful = true;
            return;
        }
        index = 0;
    }
    if (index >= h->flight) {
        return;
    }
    h->acked = h->now;
    uint_fast16_t at = entry_at(h, index);
    if (h->ring[at] & (DEAD >> 8)) {
        return;
    }
    if (h->got[W_CODE] == H_BAD_SEQ) {
        again(h, at);
    } else {
        give_up(h, at, true);
    }
}

#if TELEHUB_COMMANDS
static void commanded(struct telehub *h)
{
    struct telehub_slot *s;
    if (!h->slot) {
        return;
    }
    s = &h->slots[h->slot - 1];
    uint32_t id = hash_of(s->bytes + s->id, s->id_len);
    bool known = false;
    for (int slot = 0; slot < TELEHUB_COMMANDS; slot++) {
        struct telehub_slot *other = &h->slots[slot];
        if (other->state > SLOT_READING && hash_of(other->bytes + other->id, other->id_len) == id) {
            known = true;
            if (other->state == SLOT_SENT) {
                other->state = SLOT_RESULT;
            }
        }
    }
    if (known || !s->id_len || !s->name_len) {
        s->state = SLOT_FREE;
    } else if (s->ok) {
        /* It did not fit. */
        s->state = SLOT_RESULT;
        s->args_len = 0;
        s->ok = 2;
    } else {
        s->state = SLOT_RUNNING;
        tell(h, TELEHUB_COMMAND, h->slot);
    }
    h->slot = 0;
}

/* One byte of a command's id, name or arguments. */
static void keep(struct telehub *h, uint32_t byte)
{
    struct telehub_slot *s;
    if (!h->slot) {
        return;
    }
    s = &h->slots[h->slot - 1];
    if (s->len >= TELEHUB_COMMAND_SIZE) {
        s->ok = 2;
        return;
    }
    s->bytes[s->len++] = byte;
    if (h->field == W_ID) {
        s->id_len++;
        s->id = s->len - s->id_len;
    } else if (h->field == W_NAME) {
        s->name_len++;
        s->name = s->len - s->name_len;
    } else {
        s->args_len++;
        s->args = s->len - s->args_len;
    }
}

struct telehub_asked telehub_command(const struct telehub *h, uint16_t tag)
{
    const struct telehub_slot *s = &h->slots[tag - 1];
    struct telehub_asked asked = {(const char *)s->bytes + s->name, s->bytes + s->args,
                                  s->name_len, s->args_len};
    return asked;
}

void telehub_result(struct telehub *h, uint16_t tag, bool ok, const uint8_t *value, size_t len)
{
    struct telehub_slot *s = &h->slots[tag - 1];
    uint32_t at = s->args_len && s->args + s->args_len == s->len ? s->args : s->len;
    s->ok = ok;
    if (len > (size_t)(TELEHUB_COMMAND_SIZE - at)) {
        s->ok |= 2;
        len = 0;
    }
    if (len) {
        memmove(s->bytes + at, value, len);
    }
    s->args = at;
    s->args_len = len;
    s->state = SLOT_RESULT;
}
#endif

OUT_OF_LINE static void dispatch(struct telehub *h)
{
    if (h->level != L_DONE) {
        return;
    }
    if (h->kind == W_WELCOME) {
        welcomed(h);
        return;
    }
    if (h->phase < WELCOMED) {
        return;
    }
#if TELEHUB_COMMANDS
    if (h->kind == W_COMMAND) {
        commanded(h);
        return;
    }
    slot_settled(h, h->got[W_RESULT]);
    if (h->kind == W_REJECT && h->got[W_RESULT] != NOTHING) {
        return;
    }
#endif
    if (h->kind == W_ACK) {
        batch_acked(h, h->got[W_SEQ]);
    } else if (h->kind == W_REJECT) {
        rejected(h);
    }
}

/* ---- Items: CBOR, byte by byte ---- */

/* A number as an unsigned integer: whole, and NOTHING for what is none. */
static uint32_t number(const struct telehub *h)
{
    if (h->major == 0) {
        return h->arg_high ? NOTHING : h->arg;
    }
    if (h->major != 7 || h->info < 25) {
        return NOTHING;
    }
    /* Half, single and double have 5, 8 and 11 bits of exponent behind the sign. Of a double the
     * upper word is precise enough for seconds. */
    uint32_t bits = h->arg, width = 5 + 3 * (h->info - 25);
    if (width == 5) {
        bits <<= 16;
    } else if (width == 11) {
        bits = h->arg_high;
    }
    int32_t exponent = (int32_t)(bits >> (31 - width)) - ((1 << (width - 1)) - 1);
    if (exponent < 0) {
        return 0;
    }
    /* A sign is a huge exponent here, and so is infinity. */
    return exponent > 15 ? NOTHING : (bits << width | 1u << 31) >> (31 - exponent);
}

/* An item has ended, with all that is in it. */
static void item_done(struct telehub *h)
{
    if (h->skip && --h->skip) {
        return;
    }
    if (h->level == L_VALUE) {
        h->level = --h->pairs ? L_KEY : L_DONE;
        return;
    }
    /* A name, of the kind or of a field; its value comes next. */
    uint32_t field = word(h);
    if (h->level == L_KIND) {
        h->kind = field;
        h->level = L_BODY;
    } else {
        h->level = h->level == L_KEY ? L_VALUE : L_BAD;
    }
}

/* A scalar has ended. */
static void scalar(struct telehub *h)
{
    if (h->level == L_VALUE && !h->skip && h->field < W_KEPT) {
        h->got[h->field] = h->major == 3 ? h->hash : number(h);
    }
    item_done(h);
}

static void begin_message(struct telehub *h)
{
    h->level = L_TOP;
    h->need = 0;
    h->text = h->skip = h->message = 0;
    memset(h->got, 0xff, sizeof h->got);
#if TELEHUB_COMMANDS
    if (h->slot) {
        h->slots[h->slot - 1].state = SLOT_FREE;
        h->slot = 0;
    }
#endif
}

#if TELEHUB_COMMANDS
/* Takes a place for the command that is being read. */
static void slot_begun(struct telehub *h)
{
    for (int slot = 0; slot < TELEHUB_COMMANDS && !h->slot; slot++) {
        if (h->slots[slot].state == SLOT_FREE) {
            memset(&h->slots[slot], 0, sizeof h->slots[slot]);
            h->slots[slot].state = SLOT_READING;
            h->slot = slot + 1;
        }
    }
}
#endif

/* The head of an item is complete. */
static void item(struct telehub *h)
{
    uint32_t major = h->major, count = h->arg;
    h->hash = H_NONE;
    if (major < 2 || major > 6) {
        scalar(h);
        return;
    }
    if (major == 6) {
        /* A tag, of one item. */
        count = 1;
    } else if (h->arg_high || count > MAX_INPUT) {
        /* More than a message can have. */
        h->level = L_BAD;
        return;
    }
    if (major < 4) {
        h->text = count;
    } else if (h->level == L_TOP) {
        h->level = major == 5 && count == 1 ? L_KIND : L_BAD;
        return;
    } else if (h->level == L_BODY && major == 5) {
        h->pairs = count;
        h->level = count ? L_KEY : L_DONE;
#if TELEHUB_COMMANDS
        if (h->kind == W_COMMAND) {
            slot_begun(h);
        }
#endif
        return;
    } else if (h->level != L_VALUE) {
        h->level = L_BAD;
        return;
    } else if (count) {
        /* It is done when the items in it are; one that is skipped stood for one already. All heads
         * of a message cannot make this overflow. */
        h->skip += (major == 5 ? 2 * count : count) - (h->skip != 0);
    }
    if (!count) {
        scalar(h);
    }
}

static void item_byte(struct telehub *h, uint32_t byte)
{
    if (h->level >= L_DONE) {
        /* Nothing may follow the message. */
        h->level = L_BAD;
        return;
    }
#if TELEHUB_COMMANDS
    if (h->level == L_VALUE && h->kind == W_COMMAND &&
        (h->field == W_ARGS || (h->text && !h->skip && (h->field == W_ID || h->field == W_NAME)))) {
        keep(h, byte);
    }
#endif
    if (h->text) {
        h->hash = hash_on(h->hash, byte);
        if (!--h->text) {
            scalar(h);
        }
    } else if (h->need) {
        if (h->need == 4) {
            h->arg_high = h->arg;
        }
        h->arg = h->arg << 8 | byte;
        if (!--h->need) {
            item(h);
        }
    } else {
        h->major = byte >> 5;
        h->info = byte & 31;
        h->arg = h->info;
        h->arg_high = 0;
        if (h->info < 24) {
            item(h);
        } else if (h->info < 28) {
            h->arg = 0;
            h->need = 1 << (h->info - 24);
        } else {
            h->level = L_BAD;
        }
    }
}

/* ---- Frames ---- */

static void control(struct telehub *h)
{
    if (h->rx_op == OP_PING) {
        h->say |= 1 << TX_PONG;
    } else if (h->rx_op == OP_CLOSE) {
        h->code = h->ctl_len >= 2 ? h->ctl[0] << 8 | h->ctl[1] : 1000;
        leave(h, h->code);
    }
}

static void frame_ended(struct telehub *h)
{
    uint32_t op = h->rx_op;
    h->rx = RX_FIRST;
    if (op >= OP_CLOSE) {
        control(h);
    } else if (h->rx_fin) {
        dispatch(h);
    }
}

static void frame_begun(struct telehub *h)
{
    h->rx = RX_BODY;
    if (h->rx_op >= OP_CLOSE) {
        if (h->rx_op != OP_PONG) {
            h->ctl_len = 0;
            h->say &= ~(1 << TX_PONG);
        }
    } else {
        h->message += h->rx_left;
        if (h->message > MAX_INPUT) {
            fault(h, 1009);
            return;
        }
    }
    if (!h->rx_left) {
        frame_ended(h);
    }
}

static void frame_first(struct telehub *h, uint32_t byte)
{
    uint32_t op = byte & 15, fin = byte >> 7;
    bool data = op < OP_CLOSE;
    h->rx = RX_SECOND;
    if (byte & 0x70 || !(OPCODES >> op & 1) ||
        (data ? (op == OP_CONTINUATION) == h->rx_fin : !fin)) {
        fault(h, 1002);
        return;
    }
    h->rx_op = op;
    if (data) {
        if (op) {
            begin_message(h);
            if (op == OP_TEXT) {
                /* Speaks JSON to a device that never did: not for it. */
                h->level = L_BAD;
            }
        }
        h->rx_fin = fin;
    }
}

static void frame_byte(struct telehub *h, uint32_t byte)
{
    switch (h->rx) {
    case RX_FIRST:
        frame_first(h, byte);
        break;
    case RX_SECOND:
        h->rx_left = byte;
        if (byte <= 125) {
            frame_begun(h);
        } else if (byte == 126 && h->rx_op < OP_CLOSE) {
            h->rx_left = 0;
            h->rx = RX_LENGTH;
        } else {
            /* Lengths above MAX_INPUT alone are written with 127. */
            fault(h, byte == 127 ? 1009 : 1002);
        }
        break;
    case RX_LENGTH:
    case RX_LENGTH_END:
        h->rx_left = h->rx_left << 8 | byte;
        if (h->rx++ == RX_LENGTH_END) {
            frame_begun(h);
        }
        break;
    default:
        if (h->rx_op < OP_CLOSE) {
            item_byte(h, byte);
        } else if (h->rx_op != OP_PONG) {
            h->ctl[h->ctl_len++] = byte;
        }
        if (!--h->rx_left) {
            frame_ended(h);
        }
        break;
    }
}

size_t telehub_input(struct telehub *h, const uint8_t *bytes, size_t len, uint32_t now)
{
    size_t taken = 0;
    h->now = now;
    while (taken < len && h->rx != RX_DEAF) {
        h->heard = now;
        if (h->rx < RX_FIRST) {
            head_byte(h, bytes[taken++]);
        } else if (h->tx != TX_PONG) {
            frame_byte(h, bytes[taken++]);
        } else {
            /* A pong is on its way out of the place where the next ping goes. */
            return taken;
        }
    }
    return h->rx == RX_DEAF ? len : taken;
}
