/* Feeds the core what no hub sends. With libFuzzer: -fsanitize=fuzzer -DLIBFUZZER. Without it, this
 * makes its own inputs, good streams with random damage: fuzz [ROUNDS [SEED]]. */
#include "../src/telehub.c"
#include "telehub_pack.h"

#include <stdio.h>
#include <stdlib.h>

static struct telehub hub;
static uint32_t state = 1;

static uint32_t numbers(void *user)
{
    (void)user;
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

static void on_event(void *user, enum telehub_event event, uint16_t tag)
{
    (void)user;
#if TELEHUB_COMMANDS
    if (event == TELEHUB_COMMAND) {
        struct telehub_asked asked = telehub_command(&hub, tag);
        telehub_result(&hub, tag, asked.name_len & 1, asked.args, asked.args_len);
    }
#else
    (void)event;
    (void)tag;
#endif
}

static const struct telehub_config CONFIG = {
    .host = "hub", .id = "d", .token = "t", .stream = "abc", .clock = "none",
    .random = numbers, .event = on_event,
};

static void invariants(void)
{
    uint32_t bytes = 0, count = 0;
    for (uint16_t at = hub.head; count < hub.batches; count++) {
        uint16_t size = size_at(&hub, at);
        bytes += size;
        at = wrap(at + size);
    }
    if (bytes != hub.bytes || hub.bytes > TELEHUB_QUEUE || hub.flight > hub.batches ||
        hub.head >= TELEHUB_QUEUE) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t out[64], pack[40];
    uint32_t now = 0;
    telehub_init(&hub, &CONFIG, 0);
    for (size_t at = 0; at < size;) {
        uint8_t action = data[at++];
        size_t len = size - at < (action & 63u) ? size - at : (action & 63u);
        now += action;
        if (telehub_tick(&hub, now) == TELEHUB_CONNECT) {
            telehub_connected(&hub, now);
            if (action & 64) {
                /* Past the proof, which no fuzzer guesses. */
                hub.phase = GREETING;
                hub.say = 1 << TX_HELLO;
                hub.rx = RX_FIRST;
                hub.tx = TX_NONE;
            }
        }
        if (action & 128) {
            struct telehub_pack writer = telehub_pack_begin(pack, sizeof pack, 1);
            telehub_pack_float(&writer, "x", "Cel", (float)action);
            telehub_put(&hub, pack, writer.len, action, now);
        }
        at += telehub_input(&hub, data + at, len, now);
        telehub_output(&hub, out, action % sizeof out, now);
        if (telehub_tick(&hub, now) == TELEHUB_HANG_UP) {
            while (telehub_output(&hub, out, sizeof out, now)) {
            }
            telehub_disconnected(&hub, now);
            now += 3600000;
        }
        invariants();
    }
    return 0;
}

#ifndef LIBFUZZER
#ifndef ROUNDS
#define ROUNDS 100000
#endif

static size_t frame(uint8_t *out, const char *bytes, size_t len)
{
    out[0] = 0x82;
    out[1] = (uint8_t)len;
    memcpy(out + 2, bytes, len);
    return len + 2;
}

int main(int count, char **arguments)
{
    static const struct { const char *bytes; size_t len; } GOOD[] = {
#define GOOD_(text) {text, sizeof text - 1}
        GOOD_("\xa1\x67welcome\xa3\x63seq\x00\x66stream\x63" "abc\x66window\x18\x40"),
        GOOD_("\xa1\x63" "ack\xa1\x63seq\x01"),
        GOOD_("\xa1\x66reject\xa2\x63seq\x01\x64" "code\x67" "bad-seq"),
        GOOD_("\xa1\x66reject\xa1\x64" "code\x69malformed"),
        GOOD_("\xa1\x67" "command\xa4\x62id\x61" "a\x64name\x64" "echo\x64" "args\x82\x01\xfb@\x09!\xfbTD-\x18\x67timeout\x18\x1e"),
        GOOD_("\xa1\x63" "ack\xa1\x66result\x61" "a"),
        GOOD_("\xa1\x64note\xa2\x64" "code\x61x\x66" "detail\xa1\x61y\x9f"),
#undef GOOD_
    };
    unsigned long rounds = count > 1 ? strtoul(arguments[1], NULL, 10) : ROUNDS;
    state = count > 2 ? (uint32_t)strtoul(arguments[2], NULL, 10) | 1 : 1;
    for (unsigned long round = 0; round < rounds; round++) {
        uint8_t bytes[2048];
        size_t len = 0;
        /* A chunk of up to 63 bytes follows each action byte: leave room for them between. */
        uint8_t stream[1024];
        size_t total = 0;
        unsigned messages = numbers(NULL) % 12;
        for (unsigned at = 0; at < messages; at++) {
            unsigned which = at ? numbers(NULL) % 7 : 0;
            total += frame(stream + total, GOOD[which].bytes, GOOD[which].len);
        }
        for (unsigned damage = numbers(NULL) % 6; damage && total; damage--) {
            stream[numbers(NULL) % total] = (uint8_t)numbers(NULL);
        }
        for (size_t at = 0; at < total;) {
            uint8_t action = (uint8_t)numbers(NULL);
            size_t chunk = action & 63u;
            chunk = chunk < total - at ? chunk : total - at;
            bytes[len++] = action;
            memcpy(bytes + len, stream + at, chunk);
            len += chunk;
            at += chunk;
            if (len > sizeof bytes - 128) {
                break;
            }
        }
        uint32_t kept = state;
        LLVMFuzzerTestOneInput(bytes, len);
        state = kept ^ numbers(NULL);
        state += !state;
    }
    printf("%lu inputs\n", rounds);
    return 0;
}
#endif
