/* A reading every ten seconds. Put the CA of the hub's certificate beside this file as ca.pem. */
#include "esp_event.h"
#include "esp_log.h"
#include "esp_netif.h"
#include "esp_random.h"
#include "freertos/FreeRTOS.h"
#include "freertos/task.h"
#include "nvs_flash.h"
#include "protocol_examples_common.h"
#include "telehub_esp.h"

extern const char ca_pem[] asm("_binary_ca_pem_start");

/* Where a sensor would be read. */
static float celsius(void) { return 20.0f + (float)(esp_random() % 100) / 100.0f; }

static void on_event(void *user, struct telehub *core, enum telehub_event event, uint16_t tag)
{
    (void)user;
    (void)core;
    if (event == TELEHUB_DROPPED || event == TELEHUB_REJECTED) {
        ESP_LOGW("thermometer", "batch %u is lost", tag);
    }
}

void app_main(void)
{
    static const struct telehub_esp_config config = {
        .host = CONFIG_THERMOMETER_HUB, .port = CONFIG_THERMOMETER_PORT,
        .id = CONFIG_THERMOMETER_ID, .token = CONFIG_THERMOMETER_TOKEN,
        .ca = ca_pem, .event = on_event,
    };
    ESP_ERROR_CHECK(nvs_flash_init());
    ESP_ERROR_CHECK(esp_netif_init());
    ESP_ERROR_CHECK(esp_event_loop_create_default());
    ESP_ERROR_CHECK(example_connect());
    ESP_ERROR_CHECK(telehub_esp_start(&config));
    for (uint16_t tag = 1;; tag++) {
        uint8_t bytes[48];
        struct telehub_pack pack = telehub_pack_begin(bytes, sizeof bytes, 1);
        telehub_pack_float(&pack, "temperature", "Cel", celsius());
        telehub_esp_put(&pack, tag);
        vTaskDelay(pdMS_TO_TICKS(10000));
    }
}
