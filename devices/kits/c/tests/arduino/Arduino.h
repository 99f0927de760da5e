// As much of Arduino as the library uses, on POSIX.
#ifndef ARDUINO_H
#define ARDUINO_H
#include <stddef.h>
#include <stdint.h>
uint32_t millis();
#endif
