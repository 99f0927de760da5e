// The Arduino library on a Client of POSIX sockets, as the program under test of the conformance
// test (plain scenarios: TLS is the Client's).
#include "Telehub.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double scale = 1;

uint32_t millis()
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint32_t)(uint64_t)((now.tv_sec * 1e3 + now.tv_nsec / 1e6) / scale);
}

static uint32_t bits()
{
    uint32_t value = 0;
    FILE *random = fopen("/dev/urandom", "rb");
    if (random) {
        if (fread(&value, sizeof value, 1, random) != 1) {
            value = millis();
        }
        fclose(random);
    }
    return value;
}

// Clients of Arduino block for as long as their timeout, a few seconds, and then give up.
class SocketClient : public Client {
    int fd_ = -1;
    bool gone_ = false;

public:
    int connect(const char *host, uint16_t port) override
    {
        struct addrinfo hints = {}, *found = nullptr;
        hints.ai_socktype = SOCK_STREAM;
        if (getaddrinfo(host, std::to_string(port).c_str(), &hints, &found)) {
            return 0;
        }
        fd_ = socket(found->ai_family, found->ai_socktype, found->ai_protocol);
        gone_ = ::connect(fd_, found->ai_addr, found->ai_addrlen) != 0;
        freeaddrinfo(found);
        if (gone_) {
            stop();
        }
        return !gone_;
    }
    size_t write(const uint8_t *bytes, size_t len) override
    {
        struct pollfd ready = {fd_, POLLOUT, 0};
        if (poll(&ready, 1, 3000) != 1) {
            gone_ = true;
            return 0;
        }
        ssize_t sent = send(fd_, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        gone_ = sent < 0 && errno != EAGAIN;
        return sent < 0 ? 0 : sent;
    }
    int available() override
    {
        int count = 0;
        return fd_ >= 0 && !ioctl(fd_, FIONREAD, &count) ? count : 0;
    }
    int read(uint8_t *bytes, size_t room) override { return recv(fd_, bytes, room, MSG_DONTWAIT); }
    void flush() override {}
    void stop() override
    {
        if (fd_ >= 0) {
            // As lwIP does: what was written is sent before the end.
            uint8_t sink[512];
            struct pollfd ready = {fd_, POLLIN, 0};
            shutdown(fd_, SHUT_WR);
            while (poll(&ready, 1, 100) == 1 && recv(fd_, sink, sizeof sink, 0) > 0) {
            }
            close(fd_);
        }
        fd_ = -1;
    }
    uint8_t connected() override
    {
        uint8_t byte;
        if (fd_ >= 0 && !gone_) {
            ssize_t got = recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
            gone_ = !got || (got < 0 && errno != EAGAIN);
        }
        return fd_ >= 0 && !gone_;
    }
};

static bool revoked;

static void on_event(telehub_event event, uint16_t tag)
{
    if (event == TELEHUB_DROPPED || event == TELEHUB_REJECTED) {
        printf("drop %u %u\n", tag, tag);
    }
    revoked |= event == TELEHUB_STOPPED;
}

int main()
{
    static SocketClient client;
    static Telehub hub(client, bits);
    static char host[128];
    setvbuf(stdout, nullptr, _IOLBF, 0);
    scale = atof(getenv("TELEHUB_TIME_SCALE"));
    unsigned first = atoi(getenv("TELEHUB_FIRST")), count = atoi(getenv("TELEHUB_COUNT"));
    double interval = atof(getenv("TELEHUB_INTERVAL"));
    snprintf(host, sizeof host, "%s", getenv("TELEHUB_URL") + strlen("ws://"));
    char *colon = strrchr(host, ':');
    *colon = 0;
    hub.begin(host, atoi(colon + 1), getenv("TELEHUB_ID"), getenv("TELEHUB_TOKEN"), on_event);
    uint32_t start = millis();
    unsigned made = 0;
    do {
        while (made < count && (interval > 0 ? (millis() - start) / 1000.0 >= made * interval
                                             : made < 60 || hub.idle())) {
            uint8_t bytes[48];
            telehub_pack pack = telehub_pack_begin(bytes, sizeof bytes, 1);
            telehub_pack_whole(&pack, "count", nullptr, first + made);
            hub.put(pack, first + made);
            made++;
        }
        if (made == count) {
            hub.leave();
        }
        usleep(1000);
    } while (hub.loop());
    puts(revoked ? "stopped" : "done");
    return 0;
}
