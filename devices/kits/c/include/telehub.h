/* A device of a telehub in C99: no heap, no input or output, no clock of its own.
 *
 * Bytes of the network go in (telehub_input), bytes for it come out (telehub_output); the port
 * owns the socket, TLS and the clock. Milliseconds are of any 32-bit clock that only grows; it may
 * wrap. Call everything from one thread. docs/kits.md has the rules that this follows.
 */
#ifndef TELEHUB_H
#define TELEHUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes that unsafe batches may take, each with 8 more than its pack. A power of two, at most 32768. */
#ifndef TELEHUB_QUEUE
#define TELEHUB_QUEUE 2048
#endif
#if TELEHUB_QUEUE & (TELEHUB_QUEUE - 1) || TELEHUB_QUEUE > 32768
#error "TELEHUB_QUEUE has to be a power of two, and at most 32768"
#endif

/* Commands: the number of them that may wait for their ack at once; 0 leaves them out. A hub sends
 * one at a time, and may send the next before the last result is acked. */
#ifndef TELEHUB_COMMANDS
#define TELEHUB_COMMANDS 0
#endif

/* Whether the answer to the upgrade must prove that it comes from a WebSocket server (RFC 6455 §4.1):
 * 0 saves some 330 bytes, and is defensible only behind TLS. */
#ifndef TELEHUB_PROOF
#define TELEHUB_PROOF 1
#endif

/* Bytes of one command: its id, its name and its arguments; later its id, name and value. */
#ifndef TELEHUB_COMMAND_SIZE
#define TELEHUB_COMMAND_SIZE 160
#endif

enum telehub_event {
    TELEHUB_WELCOME,  /* The hub has answered; batches are on their way. */
    TELEHUB_DROPPED,  /* The queue was full: the batch with this tag is gone. */
    TELEHUB_REJECTED, /* The hub will never take the batch with this tag. */
    TELEHUB_RENUMBERED, /* The hub knows more of the stream: all that is held has new numbers. */
    TELEHUB_COMMAND,  /* Look at telehub_command, then call telehub_result. The tag names it. */
    TELEHUB_FAULT,    /* The hub broke the protocol, or is silent: the connection is given up. */
    TELEHUB_STOPPED   /* Credentials revoked: do not come back by yourself. */
};

/* What the port is to do now. */
enum telehub_todo {
    TELEHUB_WAIT,    /* Not connected: wait for telehub_pause milliseconds. */
    TELEHUB_CONNECT, /* Connect TCP (and TLS), then call telehub_connected. */
    TELEHUB_TALK,    /* Connected: move bytes both ways. */
    TELEHUB_HANG_UP, /* Send what telehub_output still has, close, call telehub_disconnected. */
    TELEHUB_STOP     /* Stopped, or gone on purpose. */
};

struct telehub_config {
    const char *host;   /* For the Host header; with the port when it is not the usual one. */
    const char *id;     /* The device's id. */
    const char *token;  /* Its token; empty where the hub is open. */
    const char *stream; /* 1 to 64 characters: random and new at every boot. */
    const char *clock;  /* "none", "unsure" or "synced". With "none" give no times in packs. */
    uint32_t (*random)(void *user);
    void (*event)(void *user, enum telehub_event event, uint16_t tag);
    void *user;
};

#if TELEHUB_COMMANDS
struct telehub_slot {
    uint8_t state, ok;
    uint8_t id, id_len, name, name_len, args, args_len; /* Where in `bytes`. */
    uint8_t len;                                        /* Of all that is in `bytes`. */
    uint8_t bytes[TELEHUB_COMMAND_SIZE];
};
#endif

/* Fields are the core's own. What is used most stands first, where short instructions reach it. */
struct telehub {
    uint8_t phase;
    bool accepted; /* The answer to the upgrade had its proof. */
    uint8_t failures, alone, budget;
    bool stopped, careful, leaving;
    uint8_t tx, tx_head; /* What is being sent. */
    uint8_t rx, rx_op, rx_fin, ctl_len; /* Frames, */
    uint8_t level, major, info, need;   /* the items in them, */
    uint8_t kind, field;                /* and which word they belong to. */
#if TELEHUB_COMMANDS
    uint8_t slot, slot_tx; /* The slot that is read into, or sent from; plus one. */
#endif
    uint16_t code;     /* How the connection ended: a close code, an HTTP status, or 0. */
    uint16_t wish;     /* Retry-After, in seconds. */
    uint16_t flight;   /* Batches that are sent. */
    uint16_t say;      /* What is to be said next, as bits. */
    uint16_t batches, head, bytes; /* The ring: what is in it, and where it begins. */
    uint16_t tx_entry;
    uint16_t spacing, bye;
    uint32_t now;
    const struct telehub_config *config;
    uint32_t first; /* Number of the oldest batch in the queue. */
    /* What messages say, in this order: the number that was never used yet, the highest that was
     * sent on this connection, the age of that batch, and how long the device will sleep. */
    uint32_t next, sent, age, sleep;
    uint32_t paced;   /* When the last batch was begun. */
    uint32_t acked;   /* When the hub last gave what it owes: the welcome, then acks. */
    uint32_t hash, text, arg, arg_high, skip, pairs, rx_left, message;
    uint32_t tx_at, tx_len, tx_skip, tx_room, tx_mask;
    uint8_t *tx_out;
    uint32_t heard, since, retry, mask;
    /* Batches that may be in flight and bytes of a message, each less one, so that zero, which no hub
     * can mean, is no limit. */
    uint32_t window, largest;
    uint32_t silence; /* Milliseconds without a frame until the hub is given up. */
    uint32_t got[9];  /* What the message said, by word. */
    uint32_t proof[6]; /* SHA-1's five words, and a zero. */
    uint8_t ctl[128];  /* The payload of a ping; before, what the proof is the digest of. */
#if TELEHUB_COMMANDS
    struct telehub_slot slots[TELEHUB_COMMANDS];
#endif
    uint8_t ring[TELEHUB_QUEUE];
};

/* `config` is kept, not copied. */
void telehub_init(struct telehub *hub, const struct telehub_config *config, uint32_t now);

/* Takes a batch: one SenML pack in CBOR, which telehub_pack.h helps to write. When the queue is
 * full the oldest go, each with an event. False only for a pack that is larger than the queue. */
bool telehub_put(struct telehub *hub, const uint8_t *pack, size_t len, uint16_t tag, uint32_t now);

/* Whether a batch of so many bytes fits without pushing another out. */
bool telehub_room(const struct telehub *hub, size_t len);

/* Whether everything is safe, and no result is owed. */
bool telehub_idle(const struct telehub *hub);

/* Says bye once everything is safe, for so many seconds (0: without saying for how long). */
void telehub_leave(struct telehub *hub, uint16_t sleep);

/* The clock has moved: what to do now. */
enum telehub_todo telehub_tick(struct telehub *hub, uint32_t now);

/* Milliseconds until the next attempt. */
uint32_t telehub_pause(const struct telehub *hub, uint32_t now);

/* The connection is up. */
void telehub_connected(struct telehub *hub, uint32_t now);

/* The connection has ended, or could not be made. */
void telehub_disconnected(struct telehub *hub, uint32_t now);

/* Bytes came. Returns how many were taken: fewer than `len` when something must be sent first. */
size_t telehub_input(struct telehub *hub, const uint8_t *bytes, size_t len, uint32_t now);

/* Writes up to `room` bytes that are to be sent; returns how many. All of them must be sent. */
size_t telehub_output(struct telehub *hub, uint8_t *out, size_t room, uint32_t now);

#if TELEHUB_COMMANDS
/* A command: name (not ended by a zero) and arguments in CBOR (none: length 0). */
struct telehub_asked {
    const char *name;
    const uint8_t *args;
    size_t name_len, args_len;
};
struct telehub_asked telehub_command(const struct telehub *hub, uint16_t tag);

/* Its end: ok with a value in CBOR (or NULL), or not ok with an error in CBOR (a text). Pointers of
 * telehub_command are of no use after it. A value that does not fit is told as "too-large". */
void telehub_result(struct telehub *hub, uint16_t tag, bool ok, const uint8_t *value, size_t len);
#endif

#ifdef __cplusplus
}
#endif
#endif
