// The link on ESP32, by the ESP-IDF component's task.
#include "telehub_component.h"

#ifdef TELEHUB_TASK
#include "esphome/core/log.h"
#include "telehub_esp.h"

namespace esphome::telehub {

static const char *const TAG = "telehub.link";

static void told(void *, ::telehub *, telehub_event event, uint16_t tag) {
  if (event == TELEHUB_DROPPED)
    ESP_LOGW(TAG, "the queue is full: batch %u is lost", tag);
  else if (event == TELEHUB_REJECTED)
    ESP_LOGE(TAG, "the hub rejects batch %u", tag);
  else if (event == TELEHUB_STOPPED)
    ESP_LOGE(TAG, "the hub has revoked this device's token");
}

bool Link::start(const Settings &settings) {
  telehub_esp_config config{};
  config.host = settings.host;
  config.port = settings.port;
  config.id = settings.device;
  config.token = settings.token;
  config.ca = settings.ca;
  config.event = told;
  return telehub_esp_start(&config) == ESP_OK;
}

void Link::loop() {}

bool Link::put(const telehub_pack &pack, uint16_t tag) { return telehub_esp_put(&pack, tag); }

}  // namespace esphome::telehub
#endif
