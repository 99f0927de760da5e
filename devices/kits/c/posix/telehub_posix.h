/* The POSIX port: sockets, poll, and OpenSSL where the hub speaks TLS. */
#ifndef TELEHUB_POSIX_H
#define TELEHUB_POSIX_H

#include "telehub.h"

struct telehub_posix {
    struct telehub *core;
    const char *host, *port;
    const char *ca;  /* A file with the CA in PEM; NULL: no TLS. */
    double scale;    /* Real seconds of a protocol second: 1 but in tests. */
    int fd;
    int state;
    void *ctx, *ssl; /* OpenSSL's. */
    uint32_t since;
    uint8_t out[512];
    size_t out_len, out_at;
};

/* Prepares it; `core` is initialised already. False when the CA cannot be read. */
bool telehub_posix_open(struct telehub_posix *port, struct telehub *core, const char *host,
                        const char *service, const char *ca, double scale);

/* Milliseconds for the core's functions. */
uint32_t telehub_posix_now(const struct telehub_posix *port);

/* Does what there is to do, and waits for the network for at most `wait` real milliseconds. False
 * when the core has stopped. */
bool telehub_posix_step(struct telehub_posix *port, int wait);

/* Random bits from the system, for telehub_config.random. */
uint32_t telehub_posix_random(void *user);

void telehub_posix_close(struct telehub_posix *port);

#endif
