#define _POSIX_C_SOURCE 200809L
#include "telehub_posix.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <openssl/ssl.h>

enum { IDLE, CONNECTING, SHAKING, UP, LINGERING };

/* Protocol milliseconds: for TCP and TLS together, and for the other end to hang up after us. */
#define CONNECT_TIMEOUT 30000
#define LINGER_TIMEOUT 2000

/* What one read or write came to, other than a number of bytes. */
enum { BUSY = -1, GONE = -2 };

uint32_t telehub_posix_now(const struct telehub_posix *port)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    double ms = (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
    return (uint32_t)(uint64_t)(ms / port->scale);
}

uint32_t telehub_posix_random(void *user)
{
    static int fd = -1;
    uint32_t bits = 0;
    (void)user;
    if (fd < 0) {
        fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    }
    if (fd < 0 || read(fd, &bits, sizeof bits) != sizeof bits) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        bits = (uint32_t)now.tv_nsec * 2654435761u;
    }
    return bits;
}

bool telehub_posix_open(struct telehub_posix *port, struct telehub *core, const char *host,
                        const char *service, const char *ca, double scale)
{
    memset(port, 0, sizeof *port);
    port->core = core;
    port->host = host;
    port->port = service;
    port->ca = ca;
    port->scale = scale;
    port->fd = -1;
    /* A hub that has gone is told by write's result. */
    signal(SIGPIPE, SIG_IGN);
    if (ca) {
        SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
        if (!ctx || SSL_CTX_load_verify_locations(ctx, ca, NULL) != 1) {
            SSL_CTX_free(ctx);
            return false;
        }
        SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
        SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        port->ctx = ctx;
    }
    return true;
}

static void hang_up(struct telehub_posix *port, bool tell)
{
    if (port->ssl) {
        SSL_free(port->ssl);
        port->ssl = NULL;
    }
    if (port->fd >= 0) {
        close(port->fd);
        port->fd = -1;
    }
    port->state = IDLE;
    port->out_len = port->out_at = 0;
    if (tell) {
        telehub_disconnected(port->core, telehub_posix_now(port));
    }
}

void telehub_posix_close(struct telehub_posix *port)
{
    hang_up(port, false);
    SSL_CTX_free(port->ctx);
    port->ctx = NULL;
}

static void dial(struct telehub_posix *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    int one = 1;
    port->since = telehub_posix_now(port);
    if (getaddrinfo(port->host, port->port, &hints, &found) != 0) {
        telehub_disconnected(port->core, port->since);
        return;
    }
    for (struct addrinfo *at = found; at && port->fd < 0; at = at->ai_next) {
        int fd = socket(at->ai_family, at->ai_socktype, at->ai_protocol);
        if (fd < 0) {
            continue;
        }
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (connect(fd, at->ai_addr, at->ai_addrlen) == 0 || errno == EINPROGRESS) {
            struct pollfd ready = {fd, POLLOUT, 0};
            int error = 0;
            socklen_t len = sizeof error;
            /* A refusal of a host of one's own network comes at once: then the next address. */
            if (poll(&ready, 1, 50) == 1 &&
                (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error)) {
                close(fd);
                continue;
            }
            port->fd = fd;
        } else {
            close(fd);
        }
    }
    freeaddrinfo(found);
    if (port->fd < 0) {
        telehub_disconnected(port->core, telehub_posix_now(port));
        return;
    }
    port->state = CONNECTING;
}

static int tls_result(struct telehub_posix *port, int result)
{
    int why = SSL_get_error(port->ssl, result);
    return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? BUSY : GONE;
}

static int receive(struct telehub_posix *port, uint8_t *bytes, size_t room)
{
    if (port->ssl) {
        int result = SSL_read(port->ssl, bytes, (int)room);
        return result > 0 ? result : tls_result(port, result);
    }
    ssize_t result = recv(port->fd, bytes, room, 0);
    if (result > 0) {
        return (int)result;
    }
    return result < 0 && (errno == EAGAIN || errno == EINTR) ? BUSY : GONE;
}

static int transmit(struct telehub_posix *port, const uint8_t *bytes, size_t len)
{
    if (port->ssl) {
        int result = SSL_write(port->ssl, bytes, (int)len);
        return result > 0 ? result : tls_result(port, result);
    }
    ssize_t result = send(port->fd, bytes, len, 0);
    if (result >= 0) {
        return (int)result;
    }
    return errno == EAGAIN || errno == EINTR ? BUSY : GONE;
}

/* Sends what the core has. False when the connection is gone. */
static bool send_out(struct telehub_posix *port)
{
    for (;;) {
        if (port->out_at == port->out_len) {
            uint32_t now = telehub_posix_now(port);
            port->out_at = 0;
            port->out_len = telehub_output(port->core, port->out, sizeof port->out, now);
            if (!port->out_len) {
                return true;
            }
        }
        int sent = transmit(port, port->out + port->out_at, port->out_len - port->out_at);
        if (sent == GONE) {
            return false;
        }
        if (sent == BUSY) {
            return true;
        }
        port->out_at += (size_t)sent;
    }
}

/* Hands over what has come. False when the connection is gone. */
static bool take_in(struct telehub_posix *port)
{
    uint8_t bytes[512];
    for (;;) {
        int got = receive(port, bytes, sizeof bytes);
        if (got == BUSY) {
            return true;
        }
        if (got == GONE) {
            return false;
        }
        for (size_t at = 0; at < (size_t)got && port->state == UP;) {
            uint32_t now = telehub_posix_now(port);
            size_t taken = telehub_input(port->core, bytes + at, (size_t)got - at, now);
            at += taken;
            /* It takes no more until what it has to say is out. */
            if (at < (size_t)got && !send_out(port)) {
                return false;
            }
            if (!taken && port->out_at != port->out_len) {
                struct pollfd ready = {port->fd, POLLOUT, 0};
                if (telehub_tick(port->core, now) == TELEHUB_HANG_UP) {
                    return false;
                }
                poll(&ready, 1, 100);
            }
        }
        /* Answers go out before more is read: nobody gets ahead of the other. */
        if (port->state == UP && !send_out(port)) {
            return false;
        }
    }
}

static void shake(struct telehub_posix *port)
{
    if (port->ctx && !port->ssl) {
        port->ssl = SSL_new(port->ctx);
        if (!port->ssl || SSL_set_fd(port->ssl, port->fd) != 1 ||
            SSL_set_tlsext_host_name(port->ssl, port->host) != 1 ||
            SSL_set1_host(port->ssl, port->host) != 1) {
            hang_up(port, true);
            return;
        }
    }
    if (port->ssl) {
        int result = SSL_connect(port->ssl);
        if (result != 1) {
            if (tls_result(port, result) == GONE) {
                hang_up(port, true);
            }
            return;
        }
    }
    port->state = UP;
    telehub_connected(port->core, telehub_posix_now(port));
}

static void wait_for(struct telehub_posix *port, int wait)
{
    struct pollfd ready = {port->fd, POLLIN, 0};
    bool tls_wants = port->ssl && SSL_want_write(port->ssl);
    if (port->state == CONNECTING || port->out_at != port->out_len || tls_wants) {
        ready.events |= POLLOUT;
    }
    if (port->ssl && SSL_pending(port->ssl)) {
        wait = 0;
    }
    poll(&ready, port->fd >= 0, wait);
    if (port->state == CONNECTING && ready.revents) {
        int error = 0;
        socklen_t len = sizeof error;
        if (getsockopt(port->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error) {
            hang_up(port, true);
            return;
        }
        port->state = SHAKING;
    }
}

/* Our side is done: what still comes is thrown away until the other end hangs up. */
static void linger(struct telehub_posix *port)
{
    uint8_t sink[512];
    int got;
    do {
        got = receive(port, sink, sizeof sink);
    } while (got > 0);
    if (got == GONE || telehub_posix_now(port) - port->since > LINGER_TIMEOUT) {
        hang_up(port, true);
    }
}

static void talk(struct telehub_posix *port, enum telehub_todo todo)
{
    if (!send_out(port) || !take_in(port)) {
        hang_up(port, true);
        return;
    }
    if (todo == TELEHUB_HANG_UP && port->out_at == port->out_len) {
        if (port->ssl) {
            SSL_shutdown(port->ssl);
        }
        shutdown(port->fd, SHUT_WR);
        port->state = LINGERING;
        port->since = telehub_posix_now(port);
    }
}

bool telehub_posix_step(struct telehub_posix *port, int wait)
{
    uint32_t now = telehub_posix_now(port);
    enum telehub_todo todo = telehub_tick(port->core, now);
    double pause;
    switch (port->state) {
    case IDLE:
        if (todo == TELEHUB_STOP) {
            return false;
        }
        if (todo == TELEHUB_CONNECT) {
            dial(port);
        } else {
            pause = telehub_pause(port->core, now) * port->scale + 1;
            poll(NULL, 0, pause < wait ? (int)pause : wait);
        }
        break;
    case CONNECTING:
    case SHAKING:
        wait_for(port, wait);
        if (port->state == SHAKING) {
            shake(port);
        }
        if (port->state != UP && port->fd >= 0 && now - port->since > CONNECT_TIMEOUT) {
            hang_up(port, true);
        }
        break;
    case UP:
        talk(port, todo);
        if (port->state == UP && todo == TELEHUB_TALK) {
            wait_for(port, wait);
        }
        break;
    default:
        wait_for(port, wait);
        linger(port);
        break;
    }
    return true;
}
