/* The program under test of the conformance test: see docs/kits.md, "The test contract". */
#define _POSIX_C_SOURCE 200809L
#include "telehub_pack.h"
#include "telehub_posix.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct telehub hub;
static bool revoked;

static const char *env(const char *name)
{
    const char *value = getenv(name);
    return value ? value : "";
}

#if TELEHUB_COMMANDS
static void carry_out(uint16_t tag)
{
    static const uint8_t unknown[] = "\x6fno such command";
    struct telehub_asked asked = telehub_command(&hub, tag);
    if (asked.name_len == 4 && !memcmp(asked.name, "echo", 4)) {
        const struct telehub_slot *slot = &hub.slots[tag - 1];
        printf("command %.*s echo\n", slot->id_len, (const char *)slot->bytes + slot->id);
        telehub_result(&hub, tag, true, asked.args, asked.args_len);
    } else {
        telehub_result(&hub, tag, false, unknown, sizeof unknown - 1);
    }
}
#endif

static void on_event(void *user, enum telehub_event event, uint16_t tag)
{
    (void)user;
    if (event == TELEHUB_DROPPED || event == TELEHUB_REJECTED) {
        printf("drop %u %u\n", tag, tag);
    } else if (event == TELEHUB_STOPPED) {
        revoked = true;
    }
#if TELEHUB_COMMANDS
    if (event == TELEHUB_COMMAND) {
        carry_out(tag);
    }
#endif
    fprintf(stderr, "event %d %u\n", event, tag);
}

int main(void)
{
    static char url[256], stream[17];
    double scale = atof(env("TELEHUB_TIME_SCALE")), interval = atof(env("TELEHUB_INTERVAL"));
    unsigned first = (unsigned)atoi(env("TELEHUB_FIRST"));
    unsigned count = (unsigned)atoi(env("TELEHUB_COUNT")), made = 0;
    bool tls = !strncmp(env("TELEHUB_URL"), "wss://", 6);
    uint8_t bytes[64];
    struct telehub_posix port;

    setvbuf(stdout, NULL, _IOLBF, 0);
    snprintf(url, sizeof url, "%s", env("TELEHUB_URL") + (tls ? 6 : 5));
    snprintf(stream, sizeof stream, "%08x%08x", (unsigned)telehub_posix_random(NULL),
             (unsigned)telehub_posix_random(NULL));
    char *colon = strrchr(url, ':');
    if (!colon) {
        fprintf(stderr, "TELEHUB_URL: expected ws://HOST:PORT\n");
        return 2;
    }
    const struct telehub_config config = {
        .host = env("TELEHUB_URL") + (tls ? 6 : 5), .id = env("TELEHUB_ID"),
        .token = env("TELEHUB_TOKEN"), .stream = stream, .clock = "none",
        .random = telehub_posix_random, .event = on_event,
    };
    *colon = 0;
    if (!telehub_posix_open(&port, &hub, url, colon + 1, tls ? env("TELEHUB_CA") : NULL, scale)) {
        fprintf(stderr, "TELEHUB_CA cannot be read\n");
        return 2;
    }
    uint32_t start = telehub_posix_now(&port);
    telehub_init(&hub, &config, start);
    for (;;) {
        uint32_t now = telehub_posix_now(&port);
        while (made < count) {
            struct telehub_pack pack = telehub_pack_begin(bytes, sizeof bytes, 1);
            telehub_pack_whole(&pack, "count", NULL, (int32_t)(first + made));
            if (interval > 0 ? (now - start) / 1000.0 < made * interval
                             : !telehub_room(&hub, pack.len)) {
                break;
            }
            telehub_put(&hub, bytes, pack.len, (uint16_t)(first + made), now);
            made++;
        }
        if (made == count) {
            telehub_leave(&hub, 0);
        }
        if (!telehub_posix_step(&port, 5)) {
            break;
        }
    }
    puts(revoked ? "stopped" : "done");
    telehub_posix_close(&port);
    return 0;
}
