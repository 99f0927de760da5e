/* The ESP-IDF component on a stand-in for ESP-IDF (POSIX threads and sockets), as the program under
 * test of the conformance test. Plain scenarios: TLS is esp_tls's. */
#define _GNU_SOURCE
#include "telehub_esp.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "esp_random.h"
#include "esp_timer.h"
#include "esp_tls.h"
#include "freertos/semphr.h"
#include "freertos/task.h"

static double scale = 1;

/* ---- ESP-IDF ---- */

int64_t esp_timer_get_time(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)(((double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3) / scale);
}

uint32_t esp_random(void)
{
    uint32_t bits = 0;
    if (getrandom(&bits, sizeof bits, 0) != sizeof bits) {
        abort();
    }
    return bits;
}

struct esp_tls { int fd; };

esp_tls_t *esp_tls_init(void)
{
    esp_tls_t *tls = malloc(sizeof *tls);
    tls->fd = -1;
    return tls;
}

int esp_tls_conn_new_sync(const char *hostname, int hostlen, int port, const esp_tls_cfg_t *cfg,
                          esp_tls_t *tls)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    char service[8];
    (void)hostlen;
    snprintf(service, sizeof service, "%d", port);
    if (!cfg->is_plain_tcp || getaddrinfo(hostname, service, &hints, &found)) {
        return -1;
    }
    tls->fd = socket(found->ai_family, found->ai_socktype, found->ai_protocol);
    int result = connect(tls->fd, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return result ? -1 : 1;
}

ssize_t esp_tls_conn_write(esp_tls_t *tls, const void *data, size_t datalen)
{
    return send(tls->fd, data, datalen, 0);
}

ssize_t esp_tls_conn_read(esp_tls_t *tls, void *data, size_t datalen)
{
    return recv(tls->fd, data, datalen, 0);
}

ssize_t esp_tls_get_bytes_avail(esp_tls_t *tls)
{
    (void)tls;
    return 0;
}

esp_err_t esp_tls_get_conn_sockfd(esp_tls_t *tls, int *sockfd)
{
    *sockfd = tls->fd;
    return ESP_OK;
}

int esp_tls_conn_destroy(esp_tls_t *tls)
{
    if (tls->fd >= 0) {
        close(tls->fd);
    }
    free(tls);
    return 0;
}

struct semaphore { sem_t count; };

static SemaphoreHandle_t semaphore_of(unsigned count)
{
    SemaphoreHandle_t made = malloc(sizeof *made);
    sem_init(&made->count, 0, count);
    return made;
}

SemaphoreHandle_t xSemaphoreCreateMutex(void) { return semaphore_of(1); }
SemaphoreHandle_t xSemaphoreCreateBinary(void) { return semaphore_of(0); }

BaseType_t xSemaphoreTake(SemaphoreHandle_t semaphore, TickType_t wait)
{
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += wait / 1000;
    int result;
    do {
        result = wait == portMAX_DELAY ? sem_wait(&semaphore->count)
                                       : sem_timedwait(&semaphore->count, &end);
    } while (result && errno == EINTR);
    return result == 0;
}

BaseType_t xSemaphoreGive(SemaphoreHandle_t semaphore) { return sem_post(&semaphore->count) == 0; }

static void (*task_code)(void *);

static void *task(void *argument)
{
    task_code(argument);
    return NULL;
}

BaseType_t xTaskCreate(void (*code)(void *), const char *name, uint32_t stack, void *argument,
                       unsigned priority, void **handle)
{
    pthread_t thread;
    (void)name;
    (void)stack;
    (void)priority;
    (void)handle;
    task_code = code;
    return pthread_create(&thread, NULL, task, argument) == 0 && pthread_detach(thread) == 0;
}

void vTaskDelay(TickType_t ticks) { usleep((useconds_t)(ticks * 1000 * scale)); }

void vTaskDelete(void *task)
{
    (void)task;
    pthread_exit(NULL);
}

/* ---- The program ---- */

static bool revoked;

static void on_event(void *user, struct telehub *core, enum telehub_event event, uint16_t tag)
{
    (void)user;
    (void)core;
    if (event == TELEHUB_DROPPED || event == TELEHUB_REJECTED) {
        printf("drop %u %u\n", tag, tag);
    } else if (event == TELEHUB_STOPPED) {
        revoked = true;
    }
}

int main(void)
{
    static char host[128];
    struct telehub_esp_config config = {.host = host, .event = on_event};
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    scale = atof(getenv("TELEHUB_TIME_SCALE"));
    unsigned first = (unsigned)atoi(getenv("TELEHUB_FIRST")), made = 0;
    unsigned count = (unsigned)atoi(getenv("TELEHUB_COUNT"));
    double interval = atof(getenv("TELEHUB_INTERVAL"));
    snprintf(host, sizeof host, "%s", getenv("TELEHUB_URL") + strlen("ws://"));
    char *colon = strrchr(host, ':');
    *colon = 0;
    config.port = (uint16_t)atoi(colon + 1);
    config.id = getenv("TELEHUB_ID");
    config.token = getenv("TELEHUB_TOKEN");
    if (telehub_esp_start(&config) != ESP_OK) {
        return 1;
    }
    int64_t start = esp_timer_get_time();
    do {
        while (made < count &&
               (interval > 0 ? (double)(esp_timer_get_time() - start) / 1e6 >= made * interval
                             : made < 60 || telehub_esp_idle())) {
            uint8_t bytes[48];
            struct telehub_pack pack = telehub_pack_begin(bytes, sizeof bytes, 1);
            telehub_pack_whole(&pack, "count", NULL, (int32_t)(first + made));
            telehub_esp_put(&pack, (uint16_t)(first + made));
            made++;
        }
        if (made == count) {
            telehub_esp_leave(0);
        }
        usleep(1000);
    } while (!telehub_esp_join(0));
    puts(revoked ? "stopped" : "done");
    return 0;
}
