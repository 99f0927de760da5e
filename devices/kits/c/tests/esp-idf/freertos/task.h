#ifndef TASK_H
#define TASK_H
#include "freertos/FreeRTOS.h"
BaseType_t xTaskCreate(void (*code)(void *), const char *name, uint32_t stack, void *argument,
                       unsigned priority, void **handle);
void vTaskDelay(TickType_t ticks);
void vTaskDelete(void *task);
#endif
