// The link on the host platform: one non-blocking socket in the main loop, without TLS.
#include "telehub_component.h"

#if defined(USE_HOST) && !defined(TELEHUB_TASK)
#include "esphome/core/hal.h"
#include "esphome/core/helpers.h"
#include "esphome/core/log.h"

#include <cerrno>
#include <cstdio>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace esphome::telehub {

static const char *const TAG = "telehub.link";

static ::telehub core;
static telehub_config config;
static char host_header[160], stream[17];
static const char *host;
static char service[8];
static int fd = -1;
static bool connecting;
// What the core gave and the socket did not take yet.
static uint8_t out[512];
static size_t out_at, out_len;

static uint32_t bits(void *) { return random_uint32(); }

static void told(void *, telehub_event event, uint16_t tag) {
  if (event == TELEHUB_DROPPED)
    ESP_LOGW(TAG, "the queue is full: batch %u is lost", tag);
  else if (event == TELEHUB_REJECTED)
    ESP_LOGE(TAG, "the hub rejects batch %u", tag);
  else if (event == TELEHUB_STOPPED)
    ESP_LOGE(TAG, "the hub has revoked this device's token");
  else if (event == TELEHUB_WELCOME)
    ESP_LOGI(TAG, "connected to %s", host_header);
}

bool Link::start(const Settings &settings) {
  host = settings.host;
  snprintf(service, sizeof service, "%u", settings.port);
  snprintf(host_header, sizeof host_header, "%s:%u", settings.host, settings.port);
  snprintf(stream, sizeof stream, "%08x%08x", (unsigned) random_uint32(), (unsigned) random_uint32());
  config = {host_header, settings.device, settings.token, stream, "none", bits, told, nullptr};
  telehub_init(&core, &config, millis());
  return true;
}

bool Link::put(const telehub_pack &pack, uint16_t tag) {
  return telehub_put(&core, pack.bytes, pack.len, tag, millis());
}

static void hang_up() {
  if (fd >= 0)
    close(fd);
  fd = -1;
  out_at = out_len = 0;
  telehub_disconnected(&core, millis());
}

static void dial() {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (!getaddrinfo(host, service, &hints, &found)) {
    fd = socket(found->ai_family, found->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, found->ai_protocol);
    connecting = fd >= 0 && (!connect(fd, found->ai_addr, found->ai_addrlen) || errno == EINPROGRESS);
    freeaddrinfo(found);
  }
  if (fd < 0 || !connecting)
    hang_up();
}

// Whether the connection is up; a failed one is given up.
static bool connected() {
  pollfd ready{fd, POLLOUT, 0};
  int error = 0, one = 1;
  socklen_t len = sizeof error;
  if (!connecting)
    return true;
  if (poll(&ready, 1, 0) != 1)
    return false;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) || error) {
    hang_up();
    return false;
  }
  connecting = false;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  telehub_connected(&core, millis());
  return true;
}

// Sends what the socket takes. False: the connection is gone.
static bool send_out() {
  for (;;) {
    if (out_at == out_len) {
      out_at = 0;
      out_len = telehub_output(&core, out, sizeof out, millis());
      if (!out_len)
        return true;
    }
    ssize_t sent = send(fd, out + out_at, out_len - out_at, MSG_NOSIGNAL);
    if (sent < 0)
      return errno == EAGAIN || errno == EINTR;
    out_at += sent;
  }
}

// Hands over what has come; the core takes no more while an answer waits for the socket. False: the
// connection is gone.
static bool take_in() {
  static uint8_t in[512];
  static size_t in_at, in_len;
  if (in_at == in_len) {
    ssize_t got = recv(fd, in, sizeof in, 0);
    in_at = in_len = 0;
    if (got <= 0)
      return got < 0 && (errno == EAGAIN || errno == EINTR);
    in_len = got;
  }
  while (in_at < in_len) {
    size_t taken = telehub_input(&core, in + in_at, in_len - in_at, millis());
    in_at += taken;
    if (!send_out()) {
      in_at = in_len = 0;
      return false;
    }
    if (!taken)
      break;
  }
  return true;
}

void Link::loop() {
  telehub_todo todo = telehub_tick(&core, millis());
  if (fd < 0) {
    if (todo == TELEHUB_CONNECT)
      dial();
    return;
  }
  if (!connected())
    return;
  if (!send_out() || !take_in() || (todo == TELEHUB_HANG_UP && out_at == out_len))
    hang_up();
}

}  // namespace esphome::telehub
#endif
