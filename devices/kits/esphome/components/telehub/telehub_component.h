#pragma once

#include "esphome/core/component.h"
#include "esphome/core/defines.h"
#include "esphome/core/entity_base.h"
#include "telehub.h"
#include "telehub_pack.h"

#ifdef USE_SENSOR
#include "esphome/components/sensor/sensor.h"
#endif
#ifdef USE_BINARY_SENSOR
#include "esphome/components/binary_sensor/binary_sensor.h"
#endif
#ifdef USE_TEXT_SENSOR
#include "esphome/components/text_sensor/text_sensor.h"
#endif

namespace esphome::telehub {

// What keeps the connection: a task of its own on ESP32 (telehub_esp.c), the main loop elsewhere.
class Link {
 public:
  struct Settings {
    const char *host;
    uint16_t port;
    const char *device, *token, *ca;
  };
  bool start(const Settings &settings);
  void loop();
  bool put(const telehub_pack &pack, uint16_t tag);
};

class Telehub : public Component {
 public:
  void set_hub(const char *host, uint16_t port) {
    this->settings_.host = host;
    this->settings_.port = port;
  }
  void set_device(const char *device, const char *token) {
    this->settings_.device = device;
    this->settings_.token = token;
  }
  void set_ca(const char *ca) { this->settings_.ca = ca; }
  void set_gather(uint32_t milliseconds) { this->gather_ = milliseconds; }

  void setup() override;
  void loop() override;
  void dump_config() override;
  float get_setup_priority() const override { return setup_priority::AFTER_WIFI; }

 protected:
  // Readings of one batch: 23 is what an array's head of one byte can count, and a batch has to
  // fit into the smallest queue beside another.
  static const size_t MAX_RECORDS = 23;
  static const size_t BATCH = 480;

  // Adds one reading of this entity: `write(pack, name)` appends it. A full batch is handed over before.
  template<typename Write> void add_(const EntityBase *entity, Write &&write);
  void flush_();
#ifdef USE_SENSOR
  void add_sensor_(sensor::Sensor *sensor, float state);
#endif

  Link link_;
  Link::Settings settings_{};
  uint32_t gather_{1000}, since_{0};
  uint8_t records_{0};
  uint16_t tag_{0};
  uint8_t bytes_[BATCH];
  telehub_pack pack_{};
};

}  // namespace esphome::telehub
