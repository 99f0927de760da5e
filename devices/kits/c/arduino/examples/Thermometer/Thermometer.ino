// A temperature every ten seconds from an ESP32 over TLS.
#include <Telehub.h>
#include <WiFi.h>
#include <WiFiClientSecure.h>

static const char *CA = "-----BEGIN CERTIFICATE-----\n...\n-----END CERTIFICATE-----\n";

WiFiClientSecure client;
Telehub hub(client, esp_random);
uint32_t due;

void setup()
{
    WiFi.begin("network", "password");
    client.setCACert(CA);
    hub.begin("hub.local", 8787, "barn-1", "the token");
}

void loop()
{
    if (WiFi.status() == WL_CONNECTED) {
        hub.loop();
    }
    if ((int32_t)(millis() - due) >= 0) {
        uint8_t bytes[48];
        telehub_pack pack = telehub_pack_begin(bytes, sizeof bytes, 1);
        telehub_pack_float(&pack, "temperature", "Cel", temperatureRead());
        hub.put(pack);
        due = millis() + 10000;
    }
}
