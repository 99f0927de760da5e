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
#define USUAL_PAUSE 450
#define USUAL_DOUBLED 6 /* 29 to 58 s. */
#define LONGEST_WISH 3600 /* Seconds. */

#define MAX_HEAD 8192     /* Bytes of an HTTP answer's head. */
#define MAX_INPUT 65535   /* Bytes of a message; a hub that sends more is not one. */
#define MAX_SKIP 65535    /* Items of a message, for the same reason. */
#define ALONE 2           /* Closes with one batch alone in flight, until it is given up. */
#define RENUMBERED 16     /* New numbers after bad-seq on one connection. */
#define ENTRY 8           /* Bytes of a batch's head in the ring: length, tag, time. */
#define DEAD 0x8000       /* In the length: rejected, waits for its place to be the first. */

enum { OFFLINE, CONNECTED, UPGRADING, GREETING, WELCOMED };
enum {
    SAY_HELLO = 1, SAY_PONG = 2, SAY_CLOSE = 4, HANG_UP = 8, STOPPED = 16, CAREFUL = 32,
    LEAVING = 64, ACCEPTED = 128
};
enum { TX_NONE, TX_REQUEST, TX_HELLO, TX_PONG, TX_RESULT, TX_DATA, TX_BYE, TX_CLOSE };
enum { RX_STATUS, RX_HEADER, RX_FIRST, RX_SECOND, RX_LENGTH, RX_BODY, RX_DEAF };
enum { L_TOP, L_KIND, L_BODY, L_KEY, L_VALUE, L_DONE, L_BAD };
enum { OP_CONTINUATION = 0, OP_TEXT = 1, OP_BINARY = 2, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10 };
enum { SLOT_FREE, SLOT_READING, SLOT_RUNNING, SLOT_RESULT, SLOT_SENT };
#define NOTHING 0xffffffffu
#define KEY 22   /* Characters of 16 bytes in base64, */
#define PROOF 27 /* and of 20, without the padding. */

/* The words of the hub that mean something here. Values are kept of those before `W_KEPT`. */
enum {
    W_SEQ, W_INTERVAL, W_TIMEOUT, W_MAX, W_RATE, W_WINDOW, W_STREAM, W_RESULT, W_CODE,
    W_KEPT, W_WELCOME = W_KEPT, W_ACK, W_REJECT,
#if TELEHUB_COMMANDS
    W_COMMAND, W_ID, W_NAME, W_ARGS,
#endif
    W_OTHER
};
/* The lower half of their FNV-1a; tests/test_core.c holds them to it. */
static const uint16_t WORDS[W_OTHER] = {
    0x0bbc, 0xeba7, 0xe635, 0x2c79, 0x3020, 0xb7dd, 0x6d65, 0x7624, 0x6cf4,
    0x7df3, 0x5a02, 0xcac6,
#if TELEHUB_COMMANDS
    0x4ab2, 0x6ae0, 0xbde6, 0xa73c,
#endif
};
/* And of the codes of a reject. */
#define H_BAD_SEQ 0x32ef2ab6u
#define H_UNKNOWN_KIND 0x8ed6611eu
#define H_NONE 0x811c9dc5u

static uint32_t hash_on(uint32_t hash, uint32_t byte) { return (hash ^ byte) * 16777619u; }

static uint32_t hash_of(const void *bytes, size_t len)
{
    const uint8_t *at = bytes;
    uint32_t hash = H_NONE;
    while (len--) {
        hash = hash_on(hash, *at++);
    }
    return hash;
}

/* Which of the words has this hash. */
static uint8_t word(uint32_t hash)
{
    uint_fast8_t at = 0;
    while (at < W_OTHER && WORDS[at] != (uint16_t)hash) {
        at++;
    }
    return at;
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

static uint_fast16_t length_at(const struct telehub *h, uint_fast16_t at) { return peek(h, at, 2) & ~DEAD; }

/* Where the batch stands that has this many before it. */
static uint_fast16_t entry_at(const struct telehub *h, uint_fast16_t index)
{
    uint_fast16_t at = h->head;
    while (index--) {
        at = wrap(at + ENTRY + length_at(h, at));
    }
    return at;
}

static void pop(struct telehub *h)
{
    uint_fast16_t size = ENTRY + length_at(h, h->head);
    h->head = wrap(h->head + size);
    h->bytes -= size;
    h->batches--;
    h->first++;
    if (h->flight) {
        h->flight--;
    }
}

static void pop_dead(struct telehub *h)
{
    while (h->batches && (h->ring[h->head] & (DEAD >> 8))) {
        pop(h);
    }
}

/* Takes a batch out of the middle. */
static void give_up(struct telehub *h, uint_fast16_t at, bool told)
{
    h->ring[at] |= DEAD >> 8;
    if (told) {
        tell(h, TELEHUB_REJECTED, peek(h, at + 2, 2));
    }
    pop_dead(h);
}

bool telehub_room(const struct telehub *h, size_t len)
{
    return len + ENTRY <= (size_t)(TELEHUB_QUEUE - h->bytes);
}

/* Leaves the hub, with a close code or without. */
static void leave(struct telehub *h, uint_fast16_t code)
{
    if (h->phase && !(h->flags & HANG_UP)) {
        h->flags |= code ? HANG_UP | SAY_CLOSE : HANG_UP;
        h->bye = code;
        h->rx = RX_DEAF;
    }
}

static void fault(struct telehub *h, uint_fast16_t code)
{
    if (!(h->flags & HANG_UP)) {
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
        tell(h, TELEHUB_DROPPED, peek(h, h->head + 2, 2));
        pop(h);
        pop_dead(h);
    }
    poke(h, len, 2);
    poke(h, tag, 2);
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
    h->flags |= LEAVING;
    h->sleep = sleep;
}

/* ---- When to come back ---- */

/* Pauses that are not the usual one, by close code or HTTP status: seconds, doubled so many times at
 * most while nothing is acked. As much again is jitter. */
static const struct { uint16_t first, last, seconds, doubled; } PAUSES[] = {
    {400, 428, 3600, 0},
    {430, 499, 3600, 0},
    {1001, 1001, 2, 0},
    {1002, 1008, 60, 3}, /* 8 to 16 min. */
    {1009, 1009, 2, 0},
    {1013, 1013, 2, 0},
    {4001, 4003, 60, 3},
};

static uint32_t pause_after(const struct telehub *h)
{
    uint32_t span = USUAL_PAUSE, doubled = USUAL_DOUBLED, wish = h->wish;
    for (uint32_t at = 0; at < sizeof PAUSES / sizeof *PAUSES; at++) {
        if (h->code >= PAUSES[at].first && h->code <= PAUSES[at].last) {
            span = PAUSES[at].seconds * 1000u;
            doubled = PAUSES[at].doubled;
        }
    }
    if (wish) {
        span = wish * 1000;
        doubled = 0;
    }
    span <<= h->failures < doubled ? h->failures : doubled;
    return span + h->config->random(h->config->user) % span;
}

/* An end that speaks of a fault with a batch. Blame needs proof: it was alone in flight, twice. */
static void blame(struct telehub *h)
{
    if (h->flight != 1) {
        h->flags |= CAREFUL;
        h->alone = 0;
    } else if (++h->alone >= ALONE) {
        h->alone = 0;
        pop_dead(h);
        give_up(h, h->head, true);
    }
}

void telehub_connected(struct telehub *h, uint32_t now)
{
    h->phase = CONNECTED;
    h->message = 0;
    h->since = h->heard = now;
    h->rx = RX_STATUS;
    h->rx_fin = 1;
    h->ctl_len = 0;
    h->silence = WELCOME_TIMEOUT;
    for (int word = 0; word < 4; word++) {
        h->nonce[word] = h->config->random(h->config->user);
    }
}

void telehub_disconnected(struct telehub *h, uint32_t now)
{
    if (h->phase == WELCOMED && now - h->since >= SETTLED) {
        h->failures = 0;
    }
    if (h->code == 1007 || h->code == 1009) {
        blame(h);
    }
    if (h->code == 4002 && !(h->flags & STOPPED)) {
        h->flags |= STOPPED;
        tell(h, TELEHUB_STOPPED, 0);
    }
    h->retry = now + pause_after(h);
    h->code = 0;
    h->wish = 0;
    if (h->failures < 20) {
        h->failures++;
    }
    h->phase = OFFLINE;
    h->flags &= STOPPED | CAREFUL | LEAVING;
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
        if (h->flags & STOPPED) {
            return TELEHUB_STOP;
        }
        return telehub_pause(h, now) ? TELEHUB_WAIT : TELEHUB_CONNECT;
    }
    if (now - h->heard >= h->silence ||
        (h->phase < WELCOMED && now - h->since >= WELCOME_TIMEOUT) ||
        (h->phase == WELCOMED && h->flight && now - h->acked >= ACK_TIMEOUT)) {
        fault(h, 0);
    }
    return h->flags & HANG_UP ? TELEHUB_HANG_UP : TELEHUB_TALK;
}

void telehub_init(struct telehub *h, const struct telehub_config *config, uint32_t now)
{
    memset(h, 0, sizeof *h);
    h->config = config;
    h->first = 1;
    h->retry = h->now = now;
}

/* ---- Sending ---- */

static void emit(struct telehub *h, uint32_t byte)
{
    uint32_t at = h->tx_at++, place = at - h->tx_skip;
    if (h->tx_head && at >= h->tx_head) {
        byte ^= h->mask >> (8 * ((at - h->tx_head) & 3));
    }
    if (place < h->tx_room) {
        h->tx_out[place] = byte;
    }
}

static void emit_text(struct telehub *h, const char *text)
{
    while (*text) {
        emit(h, *text++);
    }
}

static void emit_item(struct telehub *h, uint32_t major, uint32_t value)
{
    uint32_t size = value < 24 ? 0 : value < 0x100 ? 1 : value < 0x10000 ? 2 : 4;
    emit(h, major << 5 | (size == 0 ? value : size == 1 ? 24 : size == 2 ? 25 : 26));
    while (size--) {
        emit(h, value >> (8 * size));
    }
}

/* The character at this place in the base64 of big-endian words, behind which stands a zero. */
static uint32_t base64(const uint32_t *words, uint32_t at)
{
    uint32_t bit = 6 * at % 32;
    words += 6 * at / 32;
    uint32_t sextet = words[0] << bit >> 26;
    if (bit > 26) {
        sextet |= words[1] >> (58 - bit);
    }
    return sextet < 26 ? sextet + 'A' : sextet < 52 ? sextet - 26 + 'a'
         : sextet < 62 ? sextet - 52 + '0' : sextet == 62 ? '+' : '/';
}

/* Messages as templates: bytes as they are, and these. Carriage return and line feed are not among
 * them, nor is what CBOR's texts and heads of more than 16 are made of. */
#define I_HOST "\001"
#define I_ID "\002"
#define I_TOKEN "\003"
#define I_KEY "\004"
#define I_STREAM "\005"
#define I_NEXT "\006"
#define I_CLOCK "\007"
#define I_SEQ "\010"
#define I_AGE "\011"
#define I_PACK "\013"
#define I_SLEEP "\014"
#define I_MAX "\016"

static const char *const REQUEST =
    "GET /v1/devices/" I_ID " HTTP/1.1\r\nHost: " I_HOST "\r\nAuthorization: Bearer " I_TOKEN
    "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: " I_KEY "==\r\n\r\n";
static const char *const HELLO =
    "\xa1\x65hello"
#if TELEHUB_COMMANDS
    "\xa4\x6bmax_message" I_MAX
#else
    "\xa3"
#endif
    "\x66stream" I_STREAM "\x64next" I_NEXT "\x65" "clock" I_CLOCK;
static const char *const DATA =
    "\xa1\x64" "data\xa3\x63seq" I_SEQ "\x63" "age" I_AGE "\x64pack" I_PACK;
static const char *const BYE = "\xa1\x63" "bye\xa1\x65sleep" I_SLEEP;

static void emit_string(struct telehub *h, const char *text)
{
    emit_item(h, 3, strlen(text));
    emit_text(h, text);
}

static void emit_pack(struct telehub *h)
{
    uint_fast16_t at = h->tx_entry, len = length_at(h, at);
    at = wrap(at + ENTRY);
    while (len--) {
        emit(h, h->ring[at]);
        at = wrap(at + 1);
    }
}

static void emit_template(struct telehub *h, const char *template)
{
    const struct telehub_config *config = h->config;
    char code;
    while ((code = *template++)) {
        switch (code) {
        case 1:
            emit_text(h, config->host);
            break;
        case 2:
            emit_text(h, config->id);
            break;
        case 3:
            emit_text(h, config->token);
            break;
        case 4:
            for (uint32_t at = 0; at < KEY; at++) {
                emit(h, base64(h->nonce, at));
            }
            break;
        case 5:
            emit_string(h, config->stream);
            break;
        case 6:
            emit_item(h, 0, h->used + 1);
            break;
        case 7:
            emit_string(h, config->clock);
            break;
        case 8:
            emit_item(h, 0, h->sent);
            break;
        case 9:
            emit_item(h, 0, h->age);
            break;
        case 11:
            emit_pack(h);
            break;
        case 12:
            emit_item(h, 0, h->sleep);
            break;
#if TELEHUB_COMMANDS
        case 14:
            emit_item(h, 0, TELEHUB_COMMAND_SIZE);
            break;
#endif
        default:
            emit(h, code);
            break;
        }
    }
}

#if TELEHUB_COMMANDS
static void emit_part(struct telehub *h, const char *key, uint32_t from, uint32_t len, bool raw)
{
    const struct telehub_slot *s = &h->slots[h->slot_tx - 1];
    emit_string(h, key);
    if (!raw) {
        emit_item(h, 3, len);
    }
    while (len--) {
        emit(h, s->bytes[from++]);
    }
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
    uint32_t at = 0;
    switch (h->tx) {
    case TX_PONG:
        while (at < h->ctl_len) {
            emit(h, h->ctl[at++]);
        }
        break;
    case TX_CLOSE:
        emit(h, h->bye >> 8);
        emit(h, h->bye);
        break;
#if TELEHUB_COMMANDS
    case TX_RESULT:
        emit_result(h);
        break;
#endif
    default:
        emit_template(h, h->tx == TX_REQUEST ? REQUEST
                         : h->tx == TX_HELLO ? HELLO
                         : h->tx == TX_DATA  ? DATA
                                             : BYE);
        break;
    }
}

/* What to say next. */
static uint8_t choose(struct telehub *h)
{
    if (h->flags & SAY_CLOSE) {
        h->flags &= ~SAY_CLOSE;
        return TX_CLOSE;
    }
    if (h->flags & HANG_UP || h->phase == UPGRADING) {
        return TX_NONE;
    }
    if (h->phase == CONNECTED) {
        h->phase = UPGRADING;
        return TX_REQUEST;
    }
    if (h->flags & SAY_HELLO) {
        h->flags &= ~SAY_HELLO;
        return TX_HELLO;
    }
    if (h->flags & SAY_PONG) {
        h->flags &= ~SAY_PONG;
        return TX_PONG;
    }
    if (h->phase < WELCOMED || (int32_t)(h->now - h->allowed) < 0) {
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
    if (h->flight < h->batches && h->flight < (h->flags & CAREFUL ? 1 : h->window)) {
        uint_fast16_t at = entry_at(h, h->flight);
        if (!h->flight) {
            h->acked = h->now;
        }
        h->sent = h->first + h->flight++;
        h->used = h->sent > h->used ? h->sent : h->used;
        h->tx_entry = at;
        h->age = (h->now - peek(h, at + 4, 4)) / 1000;
        return h->ring[at] & (DEAD >> 8) ? TX_NONE : TX_DATA;
    }
    if (h->flags & LEAVING && telehub_idle(h)) {
        return TX_BYE;
    }
    return TX_NONE;
}

static void begin(struct telehub *h, uint32_t tx)
{
    h->tx = tx;
    h->tx_skip = h->tx_room = h->tx_at = 0;
    h->tx_head = 0;
    emit_message(h);
    h->tx_len = h->tx_at;
    if (tx == TX_REQUEST) {
        return;
    }
    if (tx >= TX_RESULT && tx <= TX_DATA) {
        h->allowed = h->now + h->spacing;
        if (h->tx_len > h->max) {
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

static void emit_head(struct telehub *h)
{
    static const uint8_t OPCODES[] = {0, 0, 0x82, 0x8a, 0x82, 0x82, 0x82, 0x88};
    uint_fast16_t len = h->tx_len - h->tx_head;
    uint32_t head = h->tx_head;
    /* Not masked: `emit` masks what lies behind the head. */
    emit(h, OPCODES[h->tx]);
    emit(h, 0x80 | (head == 8 ? 126 : len));
    if (head == 8) {
        emit(h, len >> 8);
        emit(h, len);
    }
    for (uint32_t at = 0; at < 4; at++) {
        emit(h, h->mask >> (8 * at));
    }
}

static void finished(struct telehub *h)
{
    if (h->tx == TX_BYE) {
        h->flags |= STOPPED;
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
            uint_fast16_t before = h->flight;
            uint32_t tx = choose(h);
            if (tx == TX_NONE) {
                /* A dead batch was passed by: there may be more behind it. */
                if (h->flight != before) {
                    continue;
                }
                break;
            }
            begin(h, tx);
            if (h->tx == TX_NONE) {
                continue;
            }
        }
        h->tx_out = out + total;
        h->tx_at = 0;
        h->tx_room = room - total;
        if (h->tx_head) {
            emit_head(h);
        }
        emit_message(h);
        uint_fast16_t left = h->tx_len - h->tx_skip;
        uint32_t wrote = left < h->tx_room ? left : h->tx_room;
        total += wrote;
        h->tx_skip += wrote;
        if (h->tx_skip == h->tx_len) {
            finished(h);
        }
    }
    return total;
}

#if TELEHUB_PROOF
/* ---- SHA-1, for the proof that the other end speaks WebSocket (RFC 6455 §4.1) ---- */

static uint32_t turn(uint32_t word, uint8_t by) { return word << by | word >> (32 - by); }

/* What is hashed: the key, RFC 6455's GUID, and what SHA-1 pads two blocks with. */
static uint32_t proof_byte(const uint32_t *nonce, uint32_t at)
{
    static const char REST[] = "==258EAFA5-E914-47DA-95CA-C5AB0DC85B11\x80";
    return at < KEY ? base64(nonce, at) : at < KEY + sizeof REST - 1 ? (uint8_t)REST[at - KEY]
         : at == 126 ? 60 * 8 >> 8 : at == 127 ? 60 * 8 & 0xff : 0;
}

static void sha1(const uint32_t *nonce, uint32_t state[6])
{
    static const uint32_t K[4] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
    static const uint32_t FIRST[6] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint32_t w[80], s[5];
    memcpy(state, FIRST, sizeof FIRST);
    for (uint32_t at = 0; at < 128;) {
        memcpy(s, state, sizeof s);
        for (uint32_t t = 0; t < 80; t++) {
            uint32_t b = s[1], c = s[2], d = s[3], k = t / 20, next = 0;
            if (t < 16) {
                do {
                    next = next << 8 | proof_byte(nonce, at);
                } while (++at & 3);
            } else {
                next = turn(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
            }
            w[t] = next;
            next += turn(s[0], 5) + s[4] + K[k];
            next += k == 0 ? d ^ (b & (c ^ d)) : k == 2 ? (b & c) | (d & (b | c)) : b ^ c ^ d;
            memmove(s + 1, s, 4 * sizeof *s);
            s[0] = next;
            s[2] = turn(b, 30);
        }
        for (uint32_t at_word = 0; at_word < 5; at_word++) {
            state[at_word] += s[at_word];
        }
    }
}
#endif

/* ---- The answer to the upgrade ---- */

static const char *after(const char *line, const char *name)
{
    while (*name) {
        char c = *line++;
        if ((c >= 'A' && c <= 'Z' ? c + 32 : c) != *name++) {
            return NULL;
        }
    }
    while (*line == ' ' || *line == '\t') {
        line++;
    }
    return line;
}

/* A number, LONGEST_WISH at most. */
static uint32_t decimal(const char *text)
{
    uint32_t value = 0;
    while (*text >= '0' && *text <= '9' && value < LONGEST_WISH) {
        value = value * 10 + (*text++ - '0');
    }
    return value < LONGEST_WISH ? value : LONGEST_WISH;
}

static void proof(struct telehub *h, const char *value)
{
#if TELEHUB_PROOF
    uint32_t digest[6];
    sha1(h->nonce, digest);
    for (uint32_t at = 0; at < PROOF; at++) {
        if (*value++ != (char)base64(digest, at)) {
            return;
        }
    }
    if (value[0] != '=' || (uint8_t)value[1] > ' ') {
        return;
    }
#else
    (void)value;
#endif
    h->flags |= ACCEPTED;
}

static void head_line(struct telehub *h)
{
    char *line = (char *)h->ctl;
    const char *value;
    if (h->rx == RX_STATUS) {
        value = after(line, "http/1.");
        h->code = value && *value && value[1] == ' ' ? decimal(value + 2) : 1;
        h->rx = RX_HEADER;
    } else if (!*line) {
        if (h->code != 101 || !(h->flags & ACCEPTED)) {
            h->code = h->code >= 300 && h->code < 600 ? h->code : 0;
            fault(h, h->code);
            return;
        }
        h->code = 0;
        h->phase = GREETING;
        h->flags |= SAY_HELLO;
        h->rx = RX_FIRST;
    } else if ((value = after(line, "retry-after:"))) {
        h->wish = decimal(value);
    } else if ((value = after(line, "sec-websocket-accept:"))) {
        proof(h, value);
    }
}

static void head_byte(struct telehub *h, uint32_t byte)
{
    if (++h->message > MAX_HEAD) {
        fault(h, 0);
    } else if (byte == '\n') {
        h->ctl[h->ctl_len] = 0;
        h->ctl_len = 0;
        head_line(h);
    } else if (byte != '\r' && h->ctl_len < sizeof h->ctl - 1) {
        h->ctl[h->ctl_len++] = byte;
    }
}

/* ---- Messages of the hub ---- */

static void batch_acked(struct telehub *h, uint32_t seq)
{
    if (seq > h->sent) {
        fault(h, 1002);
        return;
    }
    while (h->flight && h->first <= seq) {
        pop(h);
        h->acked = h->now;
        h->failures = h->alone = 0;
        h->flags &= ~CAREFUL;
    }
    pop_dead(h);
}

/* What the hub said, where it is from 1 to `most`. */
static uint32_t or_else(uint32_t value, uint32_t most, uint32_t otherwise)
{
    return value - 1 < most ? value : otherwise;
}

static void welcomed(struct telehub *h)
{
    uint32_t seq = h->got[W_SEQ], interval = or_else(h->got[W_INTERVAL], 86400, 20);
    uint32_t rate = or_else(h->got[W_RATE], 1000, 1000);
    if (h->phase != GREETING || h->flags & SAY_HELLO || seq >= NOTHING - 0x10000) {
        return;
    }
    if (h->got[W_STREAM] != hash_of(h->config->stream, strlen(h->config->stream))) {
        fault(h, 1002);
        return;
    }
    if (seq <= h->used) {
        while (h->batches && h->first <= seq) {
            pop(h);
        }
    } else {
        /* The counter was lost: nothing that is held has been taken. */
        h->first = seq + 1;
        h->used = seq;
        tell(h, TELEHUB_RENUMBERED, 0);
    }
    h->flight = 0;
    h->sent = seq;
    pop_dead(h);
    h->window = or_else(h->got[W_WINDOW], 0xffff, 1);
    h->max = or_else(h->got[W_MAX], 0xffff, 0xffff);
    h->spacing = 1000 / rate;
    h->silence = interval * 1250 + or_else(h->got[W_TIMEOUT], 86400, interval) * 1000;
    h->phase = WELCOMED;
    h->budget = RENUMBERED;
    h->since = h->acked = h->allowed = h->now;
    tell(h, TELEHUB_WELCOME, 0);
}

static void again(struct telehub *h, uint_fast16_t at)
{
    uint_fast16_t size = ENTRY + length_at(h, at);
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
            h->flags |= CAREFUL;
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

static void dispatch(struct telehub *h)
{
    if (h->level != L_DONE) {
        return;
    }
    switch (h->kind) {
    case W_WELCOME:
        welcomed(h);
        break;
    case W_ACK:
#if TELEHUB_COMMANDS
        slot_settled(h, h->got[W_RESULT]);
#endif
        if (h->got[W_SEQ] != NOTHING && h->phase == WELCOMED) {
            batch_acked(h, h->got[W_SEQ]);
        }
        break;
    case W_REJECT:
#if TELEHUB_COMMANDS
        slot_settled(h, h->got[W_RESULT]);
#endif
        if (h->phase == WELCOMED && h->got[W_RESULT] == NOTHING) {
            rejected(h);
        }
        break;
#if TELEHUB_COMMANDS
    case W_COMMAND:
        commanded(h);
        break;
#endif
    default:
        break;
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
    /* Half, single and double have 5, 8 and 11 bits of exponent. Of a double the upper word is
     * precise enough for seconds. */
    uint32_t size = h->info - 25, bits = size == 2 ? h->arg_high : h->arg;
    uint32_t width = 4 + 3 * size, fraction = (size ? 30 : 14) - width;
    int32_t exponent = (int32_t)(bits >> fraction) - (int32_t)((1u << width) - 1);
    if (exponent < 0) {
        return 0;
    }
    /* A sign is a huge exponent here, and so is infinity. */
    return exponent > 15 ? NOTHING : (bits << (31 - fraction) | 1u << 31) >> (31 - exponent);
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
    h->field = h->major == 3 ? word(h->hash) : W_OTHER;
    if (h->level == L_KIND) {
        h->kind = h->field;
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

/* The head of an item is complete. */
static void item(struct telehub *h)
{
    uint32_t count = !h->arg_high && h->arg < MAX_SKIP ? h->arg : MAX_SKIP;
    h->hash = H_NONE;
    if (h->major == 2 || h->major == 3) {
        h->text = h->arg_high ? NOTHING : h->arg;
        if (h->text) {
            return;
        }
    } else if (h->major >= 4 && h->major <= 6) {
        if (h->level == L_TOP) {
            h->level = h->major == 5 && count == 1 ? L_KIND : L_BAD;
            return;
        }
        if (h->level == L_BODY && h->major == 5) {
            h->pairs = count;
            h->level = count ? L_KEY : L_DONE;
#if TELEHUB_COMMANDS
            if (h->kind == W_COMMAND) {
                for (int slot = 0; slot < TELEHUB_COMMANDS && !h->slot; slot++) {
                    if (h->slots[slot].state == SLOT_FREE) {
                        memset(&h->slots[slot], 0, sizeof h->slots[slot]);
                        h->slots[slot].state = SLOT_READING;
                        h->slot = slot + 1;
                    }
                }
            }
#endif
            return;
        }
        if (h->level != L_VALUE) {
            h->level = L_BAD;
            return;
        }
        count = h->major == 6 ? 1 : h->major == 5 ? 2 * count : count;
        if (count) {
            /* It is done when the items in it are; one that is skipped stood for one already. */
            h->skip += count - (h->skip != 0);
            if (h->skip > 4 * MAX_SKIP) {
                h->level = L_BAD;
            }
            return;
        }
    }
    scalar(h);
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
        h->arg_high = h->arg_high << 8 | h->arg >> 24;
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
        h->flags |= SAY_PONG;
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
            h->flags &= ~SAY_PONG;
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
    bool data = op <= OP_BINARY;
    h->rx = RX_SECOND;
    if (byte & 0x70 || (!data && (op < OP_CLOSE || op > OP_PONG || !fin)) ||
        (data && (op == OP_CONTINUATION) == h->rx_fin)) {
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
        if (byte & 0x80 || (h->rx_op >= OP_CLOSE && byte > 125)) {
            fault(h, 1002);
        } else if (byte == 127) {
            /* Lengths above MAX_INPUT alone are written so. */
            fault(h, 1009);
        } else if (byte == 126) {
            h->rx_need = 2;
            h->rx_left = 0;
            h->rx = RX_LENGTH;
        } else {
            frame_begun(h);
        }
        break;
    case RX_LENGTH:
        h->rx_left = h->rx_left << 8 | byte;
        if (!--h->rx_need) {
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
    if (len) {
        h->heard = now;
    }
    while (taken < len && h->rx != RX_DEAF) {
        /* A pong is on its way out of the place where the next ping goes. */
        if (h->tx == TX_PONG && h->rx >= RX_FIRST) {
            return taken;
        }
        if (h->rx < RX_FIRST) {
            head_byte(h, bytes[taken++]);
        } else {
            frame_byte(h, bytes[taken++]);
        }
    }
    return h->rx == RX_DEAF ? len : taken;
}
