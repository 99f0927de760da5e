#include "Telehub.h"

#include <stdio.h>
#include <string.h>

// Bytes that are moved at a time, on the stack.
static const size_t PIECE = 128;

uint32_t Telehub::bits(void *self) { return static_cast<Telehub *>(self)->random_(); }

void Telehub::told(void *self, telehub_event event, uint16_t tag)
{
    Telehub *hub = static_cast<Telehub *>(self);
    if (hub->on_event_) {
        hub->on_event_(event, tag);
    }
}

void Telehub::begin(const char *host, uint16_t port, const char *id, const char *token,
                    OnEvent on_event)
{
    snprintf(host_, sizeof host_, "%s:%u", host, port);
    snprintf(stream_, sizeof stream_, "%08lx%08lx", (unsigned long)random_(),
             (unsigned long)random_());
    port_ = port;
    on_event_ = on_event;
    memset(&config_, 0, sizeof config_);
    config_.host = host_;
    config_.id = id;
    config_.token = token ? token : "";
    config_.stream = stream_;
    config_.clock = "none";
    config_.random = bits;
    config_.event = told;
    config_.user = this;
    telehub_init(&core_, &config_, millis());
}

bool Telehub::put(const telehub_pack &pack, uint16_t tag)
{
    return !pack.full && telehub_put(&core_, pack.bytes, pack.len, tag, millis());
}

void Telehub::hang_up()
{
    client_.stop();
    up_ = false;
    telehub_disconnected(&core_, millis());
}

bool Telehub::send()
{
    uint8_t bytes[PIECE];
    size_t len;
    while ((len = telehub_output(&core_, bytes, sizeof bytes, millis()))) {
        // Clients write all, or wait until they can, or are no longer connected.
        for (size_t at = 0; at < len;) {
            size_t sent = client_.write(bytes + at, len - at);
            if (!sent && !client_.connected()) {
                return false;
            }
            at += sent;
        }
    }
    return true;
}

void Telehub::receive()
{
    uint8_t bytes[PIECE];
    while (client_.available() > 0) {
        int got = client_.read(bytes, sizeof bytes);
        if (got <= 0) {
            return;
        }
        for (size_t at = 0; at < (size_t)got;) {
            at += telehub_input(&core_, bytes + at, got - at, millis());
            if (!send()) {
                return;
            }
        }
    }
}

bool Telehub::loop()
{
    telehub_todo todo = telehub_tick(&core_, millis());
    if (!up_) {
        if (todo == TELEHUB_STOP) {
            return false;
        }
        if (todo == TELEHUB_CONNECT) {
            char name[80];
            // Without the port, which stands in the Host header.
            snprintf(name, sizeof name, "%s", host_);
            *strrchr(name, ':') = 0;
            if (client_.connect(name, port_)) {
                up_ = true;
                telehub_connected(&core_, millis());
            } else {
                telehub_disconnected(&core_, millis());
            }
        }
        return true;
    }
    receive();
    bool sent = send();
    if (!sent || todo == TELEHUB_HANG_UP || (!client_.connected() && client_.available() <= 0)) {
        if (sent) {
            client_.flush();
        }
        hang_up();
    }
    return true;
}
