#include "telehub_esp.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

#include "esp_log.h"
#include "esp_random.h"
#include "esp_timer.h"
#include "esp_tls.h"
#include "freertos/FreeRTOS.h"
#include "freertos/semphr.h"
#include "freertos/task.h"

/* Milliseconds: how long the task sleeps at most before it looks at the clock and the queue again,
 * and for the other end to hang up after us. */
#define NAP 100
#define CONNECT_TIMEOUT 30000
#define LINGER_TIMEOUT 2000
/* Bytes that are moved at a time, on the task's stack. */
#define PIECE 256

static const char *const TAG = "telehub";

static struct telehub core;
static struct telehub_config core_config;
static struct telehub_esp_config config;
static char host_header[96], stream[17];
static SemaphoreHandle_t lock;  /* Holds `core`: the application puts while the task talks. */
static SemaphoreHandle_t ended; /* Given when the task is over. */

static uint32_t now_ms(void) { return (uint32_t)(esp_timer_get_time() / 1000); }

static void enter(void) { xSemaphoreTake(lock, portMAX_DELAY); }

static void quit(void) { xSemaphoreGive(lock); }

static uint32_t bits(void *user)
{
    (void)user;
    return esp_random();
}

static void told(void *user, enum telehub_event event, uint16_t tag)
{
    (void)user;
    if (config.event) {
        config.event(config.user, &core, event, tag);
    }
}

/* The connection, or NULL. Blocks for as long as that takes. */
static esp_tls_t *dial(void)
{
    esp_tls_cfg_t how = {.timeout_ms = CONNECT_TIMEOUT};
    if (config.ca) {
        how.cacert_buf = (const unsigned char *)config.ca;
        how.cacert_bytes = strlen(config.ca) + 1;
    } else {
        how.is_plain_tcp = true;
    }
    esp_tls_t *tls = esp_tls_init();
    int fd = -1;
    if (!tls) {
        return NULL;
    }
    if (esp_tls_conn_new_sync(config.host, (int)strlen(config.host), config.port, &how, tls) != 1 ||
        esp_tls_get_conn_sockfd(tls, &fd) != ESP_OK) {
        ESP_LOGW(TAG, "cannot connect to %s:%u", config.host, config.port);
        esp_tls_conn_destroy(tls);
        return NULL;
    }
    /* One task does both ways, and must not wait in either. */
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return tls;
}

/* Whether esp_tls only wants to be asked again. Over plain TCP it hands errno through. */
static bool busy(ssize_t result)
{
    return result == ESP_TLS_ERR_SSL_WANT_READ || result == ESP_TLS_ERR_SSL_WANT_WRITE ||
           (!config.ca && result < 0 && (errno == EAGAIN || errno == EINTR));
}

static void wait_for(esp_tls_t *tls, bool to_write)
{
    fd_set readable, writable;
    struct timeval nap = {.tv_usec = NAP * 1000};
    int fd = -1;
    /* What TLS has decrypted is not seen by select. */
    if (esp_tls_get_conn_sockfd(tls, &fd) != ESP_OK ||
        (!to_write && esp_tls_get_bytes_avail(tls) > 0)) {
        return;
    }
    FD_ZERO(&readable);
    FD_ZERO(&writable);
    FD_SET(fd, to_write ? &writable : &readable);
    select(fd + 1, &readable, &writable, NULL, &nap);
}

/* Sends all that the core has. False: the connection is gone. */
static bool send_out(esp_tls_t *tls)
{
    uint8_t bytes[PIECE];
    for (;;) {
        enter();
        size_t len = telehub_output(&core, bytes, sizeof bytes, now_ms());
        quit();
        if (!len) {
            return true;
        }
        for (size_t at = 0; at < len;) {
            ssize_t sent = esp_tls_conn_write(tls, bytes + at, len - at);
            if (sent > 0) {
                at += (size_t)sent;
            } else if (!busy(sent)) {
                return false;
            } else {
                wait_for(tls, true);
                enter();
                bool over = telehub_tick(&core, now_ms()) == TELEHUB_HANG_UP;
                quit();
                if (over) {
                    return false;
                }
            }
        }
    }
}

/* Hands over what has come. False: the connection is gone. */
static bool take_in(esp_tls_t *tls)
{
    uint8_t bytes[PIECE];
    ssize_t got = esp_tls_conn_read(tls, bytes, sizeof bytes);
    if (got <= 0) {
        return busy(got);
    }
    for (size_t at = 0; at < (size_t)got;) {
        enter();
        at += telehub_input(&core, bytes + at, (size_t)got - at, now_ms());
        quit();
        if (!send_out(tls)) {
            return false;
        }
    }
    return true;
}

/* Closes our side and waits a moment for the other end, so that what was sent arrives. */
static void linger(esp_tls_t *tls)
{
    uint8_t sink[PIECE];
    uint32_t since = now_ms();
    int fd = -1;
    if (esp_tls_get_conn_sockfd(tls, &fd) != ESP_OK) {
        return;
    }
    shutdown(fd, SHUT_WR);
    while (now_ms() - since < LINGER_TIMEOUT) {
        ssize_t got = esp_tls_conn_read(tls, sink, sizeof sink);
        if (got <= 0 && !busy(got)) {
            return;
        }
        wait_for(tls, false);
    }
}

/* One connection, to its end. */
static void talk(esp_tls_t *tls)
{
    for (;;) {
        enter();
        enum telehub_todo todo = telehub_tick(&core, now_ms());
        quit();
        if (!send_out(tls)) {
            return;
        }
        if (todo == TELEHUB_HANG_UP) {
            linger(tls);
            return;
        }
        wait_for(tls, false);
        if (!take_in(tls)) {
            return;
        }
    }
}

static void run(void *nothing)
{
    (void)nothing;
    for (;;) {
        enter();
        enum telehub_todo todo = telehub_tick(&core, now_ms());
        quit();
        if (todo == TELEHUB_STOP) {
            break;
        }
        if (todo != TELEHUB_CONNECT) {
            vTaskDelay(pdMS_TO_TICKS(NAP));
            continue;
        }
        esp_tls_t *tls = dial();
        if (tls) {
            enter();
            telehub_connected(&core, now_ms());
            quit();
            talk(tls);
            esp_tls_conn_destroy(tls);
        }
        enter();
        telehub_disconnected(&core, now_ms());
        quit();
    }
    xSemaphoreGive(ended);
    vTaskDelete(NULL);
}

esp_err_t telehub_esp_start(const struct telehub_esp_config *wanted)
{
    if (lock) {
        return ESP_ERR_INVALID_STATE;
    }
    lock = xSemaphoreCreateMutex();
    ended = xSemaphoreCreateBinary();
    if (!lock || !ended) {
        return ESP_ERR_NO_MEM;
    }
    config = *wanted;
    snprintf(host_header, sizeof host_header, "%s:%u", config.host, config.port);
    snprintf(stream, sizeof stream, "%08x%08x", (unsigned)esp_random(), (unsigned)esp_random());
    core_config = (struct telehub_config){
        .host = host_header, .id = config.id, .token = config.token ? config.token : "",
        .stream = stream, .clock = config.clock ? config.clock : "none",
        .random = bits, .event = told,
    };
    telehub_init(&core, &core_config, now_ms());
    return xTaskCreate(run, TAG, CONFIG_TELEHUB_TASK_STACK, NULL, CONFIG_TELEHUB_TASK_PRIORITY,
                       NULL) == pdPASS ? ESP_OK : ESP_ERR_NO_MEM;
}

bool telehub_esp_put(const struct telehub_pack *pack, uint16_t tag)
{
    enter();
    bool taken = !pack->full && telehub_put(&core, pack->bytes, pack->len, tag, now_ms());
    quit();
    return taken;
}

bool telehub_esp_idle(void)
{
    enter();
    bool idle = telehub_idle(&core);
    quit();
    return idle;
}

void telehub_esp_leave(uint16_t sleep)
{
    enter();
    telehub_leave(&core, sleep);
    quit();
}

bool telehub_esp_join(uint32_t milliseconds)
{
    return xSemaphoreTake(ended, pdMS_TO_TICKS(milliseconds)) == pdTRUE;
}
