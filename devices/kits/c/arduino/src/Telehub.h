// A device of a telehub over any Client of Arduino: WiFiClientSecure, EthernetClient, a modem's.
#ifndef TELEHUB_ARDUINO_H
#define TELEHUB_ARDUINO_H

#include <Arduino.h>
#include <Client.h>

#include "telehub.h"
#include "telehub_pack.h"

class Telehub {
public:
    using OnEvent = void (*)(telehub_event event, uint16_t tag);

    // `random` gives 32 bits of the board's own: esp_random on ESP32, a radio's or an ADC's noise
    // elsewhere. Arduino's random() starts with the same seed at every boot, and the same stream
    // with other readings is the one thing that must not be.
    Telehub(Client &client, uint32_t (*random)()) : client_(client), random_(random) {}

    // The texts are kept, not copied. A Client for TLS has its CA set before.
    void begin(const char *host, uint16_t port, const char *id, const char *token,
               OnEvent on_event = nullptr);

    // To be called from loop(), often. False when the hub has revoked the token, or after leave().
    bool loop();

    // Takes a batch that telehub_pack wrote. Never waits; a full queue pushes out its oldest.
    bool put(const telehub_pack &pack, uint16_t tag = 0);

    // Whether everything is safe.
    bool idle() const { return telehub_idle(&core_); }

    // Once everything is safe, says bye for so many seconds and hangs up: then loop() is false, and
    // the board may sleep.
    void leave(uint16_t sleep = 0) { telehub_leave(&core_, sleep); }

private:
    static uint32_t bits(void *self);
    static void told(void *self, telehub_event event, uint16_t tag);
    bool send();
    void receive();
    void hang_up();

    Client &client_;
    uint32_t (*random_)();
    OnEvent on_event_ = nullptr;
    telehub core_;
    telehub_config config_;
    uint16_t port_ = 0;
    bool up_ = false;
    char host_[80];
    char stream_[17];
};

#endif
