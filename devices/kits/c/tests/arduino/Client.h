// Arduino's Client as its API has it, without what the library does not call.
#ifndef CLIENT_H
#define CLIENT_H
#include <stddef.h>
#include <stdint.h>
class Client {
public:
    virtual ~Client() {}
    virtual int connect(const char *host, uint16_t port) = 0;
    virtual size_t write(const uint8_t *bytes, size_t len) = 0;
    virtual int available() = 0;
    virtual int read(uint8_t *bytes, size_t room) = 0;
    virtual void flush() = 0;
    virtual void stop() = 0;
    virtual uint8_t connected() = 0;
};
#endif
