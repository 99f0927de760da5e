/* As much of ESP-IDF's esp_tls as the component uses, with its signatures of version 5. */
#ifndef ESP_TLS_H
#define ESP_TLS_H
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "esp_err.h"

/* mbedTLS's numbers, negative as esp_tls returns them. */
#define ESP_TLS_ERR_SSL_WANT_READ -0x6900
#define ESP_TLS_ERR_SSL_WANT_WRITE -0x6880

typedef struct esp_tls esp_tls_t;
typedef struct esp_tls_cfg {
    const unsigned char *cacert_buf;
    unsigned int cacert_bytes;
    int timeout_ms;
    bool is_plain_tcp;
} esp_tls_cfg_t;

esp_tls_t *esp_tls_init(void);
int esp_tls_conn_new_sync(const char *hostname, int hostlen, int port, const esp_tls_cfg_t *cfg,
                          esp_tls_t *tls);
ssize_t esp_tls_conn_write(esp_tls_t *tls, const void *data, size_t datalen);
ssize_t esp_tls_conn_read(esp_tls_t *tls, void *data, size_t datalen);
ssize_t esp_tls_get_bytes_avail(esp_tls_t *tls);
esp_err_t esp_tls_get_conn_sockfd(esp_tls_t *tls, int *sockfd);
int esp_tls_conn_destroy(esp_tls_t *tls);
#endif
