/* Sends a temperature every ten seconds: thermometer HOST PORT ID TOKEN [CA.pem] [COUNT] */
#define _POSIX_C_SOURCE 200809L
#include "telehub_pack.h"
#include "telehub_posix.h"

#include <stdio.h>
#include <stdlib.h>

/* Milliseconds between two readings. */
#define INTERVAL 10000

static struct telehub hub;

static void on_event(void *user, enum telehub_event event, uint16_t tag)
{
    static const char *const NAMES[] = {"connected", "dropped", "rejected", "renumbered",
                                        "command", "fault", "stopped"};
    (void)user;
    printf("%s %u\n", NAMES[event], tag);
}

int main(int count, char **arguments)
{
    static char stream[17], host[128];
    struct telehub_posix port;
    if (count < 5) {
        fprintf(stderr, "usage: thermometer HOST PORT ID TOKEN [CA.pem] [COUNT]\n");
        return 2;
    }
    const char *ca = count > 5 && *arguments[5] ? arguments[5] : NULL;
    long left = count > 6 ? atol(arguments[6]) : -1;
    snprintf(host, sizeof host, "%s:%s", arguments[1], arguments[2]);
    snprintf(stream, sizeof stream, "%08x%08x", (unsigned)telehub_posix_random(NULL),
             (unsigned)telehub_posix_random(NULL));
    const struct telehub_config config = {
        .host = host, .id = arguments[3], .token = arguments[4], .stream = stream,
        .clock = "none", .random = telehub_posix_random, .event = on_event,
    };
    if (!telehub_posix_open(&port, &hub, arguments[1], arguments[2], ca, 1.0)) {
        fprintf(stderr, "%s cannot be read\n", ca);
        return 1;
    }
    uint32_t due = telehub_posix_now(&port);
    telehub_init(&hub, &config, due);
    do {
        uint32_t now = telehub_posix_now(&port);
        if (left && (int32_t)(now - due) >= 0) {
            uint8_t bytes[48];
            struct telehub_pack pack = telehub_pack_begin(bytes, sizeof bytes, 1);
            float reading = 21.0f + (float)(telehub_posix_random(NULL) % 100) / 100.0f;
            telehub_pack_float(&pack, "temperature", "Cel", reading);
            telehub_put(&hub, bytes, pack.len, 0, now);
            due += INTERVAL;
            if (left > 0 && !--left) {
                telehub_leave(&hub, 0);
            }
        }
    } while (telehub_posix_step(&port, 100));
    telehub_posix_close(&port);
    return 0;
}
