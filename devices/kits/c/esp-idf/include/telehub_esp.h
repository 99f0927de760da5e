/* A device of a telehub on ESP-IDF: a task of its own keeps the connection, over esp_tls. */
#ifndef TELEHUB_ESP_H
#define TELEHUB_ESP_H

#include <stdbool.h>
#include <stdint.h>

#include "esp_err.h"
#include "telehub.h"
#include "telehub_pack.h"

#ifdef __cplusplus
extern "C" {
#endif

struct telehub_esp_config {
    const char *host;
    uint16_t port;
    const char *id;
    const char *token; /* NULL or empty where the hub is open. */
    const char *ca;    /* PEM of the CA of the hub's certificate; NULL: plain ws://. */
    const char *clock; /* As in telehub_config; NULL is "none". */
    /* Called from the component's task, or from telehub_esp_put for what the queue pushes out. It
     * must not call this component, but for telehub_command and telehub_result with the core that
     * it is given. May be NULL. */
    void (*event)(void *user, struct telehub *core, enum telehub_event event, uint16_t tag);
    void *user;
};

/* Starts the task; once. The texts are kept, not copied. Network and Wi-Fi are the application's:
 * the task tries until they are up. */
esp_err_t telehub_esp_start(const struct telehub_esp_config *config);

/* Takes a batch, from any task. A full queue pushes out its oldest. */
bool telehub_esp_put(const struct telehub_pack *pack, uint16_t tag);

/* Whether everything is safe. */
bool telehub_esp_idle(void);

/* Once everything is safe, says bye for so many seconds and hangs up. */
void telehub_esp_leave(uint16_t sleep);

/* Waits until the task has ended: after telehub_esp_leave, or because the token was revoked. False
 * when it takes longer than this; then the board may sleep all the same, and loses what is held. */
bool telehub_esp_join(uint32_t milliseconds);

#ifdef __cplusplus
}
#endif
#endif
