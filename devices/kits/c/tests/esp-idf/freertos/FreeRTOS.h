#ifndef FREERTOS_H
#define FREERTOS_H
#include <stdint.h>
/* ESP-IDF brings sdkconfig.h with it. */
#define CONFIG_TELEHUB_TASK_STACK 6144
#define CONFIG_TELEHUB_TASK_PRIORITY 5
typedef uint32_t TickType_t;
typedef int BaseType_t;
#define pdTRUE 1
#define pdPASS 1
#define portMAX_DELAY 0xffffffffu
#define pdMS_TO_TICKS(ms) ((TickType_t)(ms))
#endif
