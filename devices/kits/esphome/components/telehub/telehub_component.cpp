#include "telehub_component.h"

#include "esphome/core/application.h"
#include "esphome/core/hal.h"
#include "esphome/core/log.h"

#include <cmath>
#include <cstring>

namespace esphome::telehub {

static const char *const TAG = "telehub";

// Longest name of a reading; ESPHome's names have 120 characters at most.
static const size_t MAX_NAME = 121;

// SenML's names hold letters, digits and - : . / _, the first a letter or a digit (RFC 8428 §4.5.1).
// Empty where nothing is left.
static void name_of(const EntityBase *entity, char (&name)[MAX_NAME]) {
  size_t len = 0;
  for (const char *at = entity->get_name().c_str(); *at && len < MAX_NAME - 1; at++) {
    char c = *at;
    if (c >= 'A' && c <= 'Z')
      c += 'a' - 'A';
    bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (plain || (len && strchr("-:.", c)))
      name[len++] = c;
    else if (len && name[len - 1] != '_')
      name[len++] = '_';
  }
  while (len && name[len - 1] == '_')
    len--;
  name[len] = 0;
}

template<typename Write> void Telehub::add_(const EntityBase *entity, Write &&write) {
  char name[MAX_NAME];
  name_of(entity, name);
  if (!*name) {
    ESP_LOGW(TAG, "a name without letters and digits cannot be sent: %s", entity->get_name().c_str());
    return;
  }
  for (int attempt = 0; attempt < 2; attempt++) {
    telehub_pack before = this->pack_;
    write(&this->pack_, name);
    if (!this->pack_.full && this->records_ < MAX_RECORDS) {
      if (!this->records_++)
        this->since_ = millis();
      return;
    }
    this->pack_ = before;
    this->flush_();
  }
  ESP_LOGW(TAG, "a state of %s is too long for a batch of %u bytes", name, (unsigned) BATCH);
}

#ifdef USE_SENSOR
// ESPHome's units that SenML writes otherwise (RFC 8428 §12.1, RFC 8798); others go as they are.
static const char *unit_of(const char *unit, const char *device_class) {
  static const struct { const char *esphome, *senml; } UNITS[] = {
      {"°C", "Cel"}, {"m³", "m3"}, {"m³/h", "m3/h"}, {"W/m²", "W/m2"}, {"µg/m³", "ug/m3"},
      {"dBm", "dBmW"}, {"L", "l"}, {"kB", "KB"},
  };
  if (!strcmp(unit, "%")) {
    return !strcmp(device_class, "humidity") ? "%RH" : !strcmp(device_class, "battery") ? "%EL" : "%";
  }
  for (const auto &known : UNITS) {
    if (!strcmp(unit, known.esphome))
      return known.senml;
  }
  return *unit ? unit : nullptr;
}

void Telehub::add_sensor_(sensor::Sensor *sensor, float state) {
  // NaN is ESPHome's "unknown", which is no reading.
  if (!std::isfinite(state))
    return;
  char device_class[MAX_DEVICE_CLASS_LENGTH];
  const char *unit = unit_of(sensor->get_unit_of_measurement_ref().c_str(),
                             sensor->get_device_class_to(device_class));
  this->add_(sensor, [&](telehub_pack *pack, const char *name) { telehub_pack_float(pack, name, unit, state); });
}
#endif

void Telehub::flush_() {
  if (this->records_) {
    this->bytes_[0] = 0x80 | this->records_;
    if (!this->link_.put(this->pack_, ++this->tag_))
      ESP_LOGE(TAG, "a batch is larger than the queue; make `queue` larger");
  }
  this->records_ = 0;
  // The number of records is put into its head when it is known.
  this->pack_ = telehub_pack_begin(this->bytes_, sizeof this->bytes_, 0);
}

void Telehub::setup() {
  this->flush_();
  if (!this->link_.start(this->settings_)) {
    this->mark_failed();
    return;
  }
#ifdef USE_SENSOR
  for (auto *sensor : App.get_sensors()) {
    if (!sensor->is_internal())
      sensor->add_on_state_callback([this, sensor](float state) { this->add_sensor_(sensor, state); });
  }
#endif
#ifdef USE_BINARY_SENSOR
  for (auto *sensor : App.get_binary_sensors()) {
    if (!sensor->is_internal()) {
      sensor->add_on_state_callback([this, sensor](bool state) {
        this->add_(sensor, [&](telehub_pack *pack, const char *name) { telehub_pack_bool(pack, name, state); });
      });
    }
  }
#endif
#ifdef USE_TEXT_SENSOR
  for (auto *sensor : App.get_text_sensors()) {
    if (!sensor->is_internal()) {
      sensor->add_on_state_callback([this, sensor](const std::string &state) {
        this->add_(sensor, [&](telehub_pack *pack, const char *name) { telehub_pack_string(pack, name, state.c_str()); });
      });
    }
  }
#endif
}

void Telehub::loop() {
  if (this->records_ && millis() - this->since_ >= this->gather_)
    this->flush_();
  this->link_.loop();
}

void Telehub::dump_config() {
  ESP_LOGCONFIG(TAG, "telehub: %s:%u as %s%s, a queue of %u bytes", this->settings_.host,
                this->settings_.port, this->settings_.device, this->settings_.ca ? ", TLS" : "",
                (unsigned) TELEHUB_QUEUE);
}

}  // namespace esphome::telehub
