/* The core on the host: numbers, the ring, the words. Run under sanitizers. Prints one line a test. */
#include "../src/telehub.c"
#include "telehub_pack.h"

#include <stdio.h>
#include <stdlib.h>

static struct telehub hub;
static uint16_t dropped[512], rejected_tags[64];
static int drops, rejects, faults, renumbers;
static uint32_t seed = 1;

static uint32_t numbers(void *user)
{
    (void)user;
    seed = seed * 1664525u + 1013904223u;
    return seed >> 3;
}

static void on_event(void *user, enum telehub_event event, uint16_t tag)
{
    (void)user;
    if (event == TELEHUB_DROPPED) {
        dropped[drops++] = tag;
    } else if (event == TELEHUB_REJECTED) {
        rejected_tags[rejects++] = tag;
    } else if (event == TELEHUB_FAULT) {
        faults++;
    } else if (event == TELEHUB_RENUMBERED) {
        renumbers++;
    }
}

static const struct telehub_config CONFIG = {
    .host = "hub", .id = "d", .token = "t", .stream = "abc", .clock = "none",
    .random = numbers, .event = on_event,
};

static void check(bool good, const char *what)
{
    if (!good) {
        printf("FAILED: %s\n", what);
        exit(1);
    }
}

static void fresh(void)
{
    drops = rejects = faults = renumbers = 0;
    telehub_init(&hub, &CONFIG, 0);
}

static bool put(uint16_t tag)
{
    uint8_t bytes[32];
    struct telehub_pack pack = telehub_pack_begin(bytes, sizeof bytes, 1);
    telehub_pack_whole(&pack, "x", NULL, tag);
    return telehub_put(&hub, bytes, pack.len, tag, hub.now);
}

static uint8_t said[65536];

static size_t say(void)
{
    size_t len = 0, got;
    /* A millisecond each, which is what the rate asks for. */
    for (int round = 0; round < 64; round++, hub.now++) {
        while ((got = telehub_output(&hub, said + len, 7, hub.now))) {
            len += got;
        }
    }
    return len;
}

/* Frames an unmasked message and hands it over, a few bytes at a time. */
static void hear(const char *bytes, size_t len)
{
    uint8_t head[4] = {0x82, (uint8_t)len};
    size_t size = 2;
    if (len > 125) {
        head[1] = 126;
        head[2] = (uint8_t)(len >> 8);
        head[3] = (uint8_t)len;
        size = 4;
    }
    telehub_input(&hub, head, size, hub.now);
    for (size_t at = 0; at < len; at++) {
        telehub_input(&hub, (const uint8_t *)bytes + at, 1, hub.now);
    }
}

/* Up to the hello, with the proof that belongs to the nonce. */
static void greet(void)
{
    char proof[PROOF + 1] = {0}, answer[160];
    uint32_t digest[6];
    telehub_connected(&hub, hub.now);
    size_t len = say();
    check(len > 100 && !memcmp(said, "GET /v1/devices/d HTTP/1.1\r\n", 28), "request");
    sha1(hub.nonce, digest);
    for (uint32_t at = 0; at < PROOF; at++) {
        proof[at] = (char)base64(digest, at);
    }
    snprintf(answer, sizeof answer,
             "HTTP/1.1 101 Switching\r\nsec-websocket-ACCEPT:%s= \r\nX: y\r\n\r\n", proof);
    telehub_input(&hub, (const uint8_t *)answer, strlen(answer), hub.now);
    check(hub.phase == GREETING, "upgraded");
    check(say() > 20, "hello");
}

static void welcome(uint32_t seq)
{
    char bytes[] = "\xa1\x67welcome\xa3\x63seq\x1a\0\0\0\0\x66stream\x63" "abc\x66window\x18\x40";
    for (int at = 0; at < 4; at++) {
        bytes[15 + at] = (char)(seq >> (24 - 8 * at));
    }
    hear(bytes, sizeof bytes - 1);
}

static void ack(uint8_t seq)
{
    char bytes[] = "\xa1\x63" "ack\xa1\x63seq\x18\0";
    bytes[sizeof bytes - 2] = (char)seq;
    hear(bytes, sizeof bytes - 1);
}

static void the_words_have_the_hashes_that_the_core_compares(void)
{
    static const char *const words[W_OTHER] = {
        "seq", "ping_interval", "ping_timeout", "max_message", "max_rate", "window", "stream",
        "result", "code", "welcome", "ack", "reject",
#if TELEHUB_COMMANDS
        "command", "id", "name", "args",
#endif
    };
    for (uint8_t at = 0; at < W_OTHER; at++) {
        check(word(hash_of(words[at], strlen(words[at]))) == at, words[at]);
    }
    check(word(hash_of("time_s", 6)) == W_OTHER, "a word that means nothing here");
    check(hash_of("bad-seq", 7) == H_BAD_SEQ, "bad-seq");
    check(hash_of("unknown-kind", 12) == H_UNKNOWN_KIND, "unknown-kind");
}

static void the_example_of_rfc_6455_is_proven(void)
{
    /* "the sample nonce", of RFC 6455 §1.3. */
    static const uint32_t nonce[5] = {0x74686520, 0x73616d70, 0x6c65206e, 0x6f6e6365};
    static const char key[] = "dGhlIHNhbXBsZSBub25jZQ", proof[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo";
    uint32_t digest[6];
    for (uint32_t at = 0; at < KEY; at++) {
        check((char)base64(nonce, at) == key[at], "Sec-WebSocket-Key");
    }
    sha1(nonce, digest);
    for (uint32_t at = 0; at < PROOF; at++) {
        check((char)base64(digest, at) == proof[at], "Sec-WebSocket-Accept");
    }
}

static void numbers_of_every_kind_are_read_as_whole_ones(void)
{
    static const struct { const char *bytes; uint32_t is; } numbers[] = {
        {"\x18\x64", 100}, {"\x1b\0\0\0\1\0\0\0\0", NOTHING}, {"\x20", NOTHING},
        {"\xf9\x56\x40", 100}, {"\xfa\x42\xc8\0\0", 100}, {"\xfb\x40\x59\0\0\0\0\0\0", 100},
        {"\xf9\x7b\xff", 65504}, {"\xfa\x47\x7f\xff\0", 65535}, {"\xfb\x40\x34\x80\0\0\0\0\0", 20},
        {"\xf9\x38\0", 0}, {"\xf9\0\0", 0}, {"\xfa\0\0\0\0", 0}, {"\xfb\0\0\0\0\0\0\0\0", 0},
        {"\xf9\x7c\0", NOTHING}, {"\xf9\x7e\0", NOTHING}, {"\xfa\x7f\x80\0\0", NOTHING},
        {"\xf9\xbc\0", NOTHING}, {"\xfb\xbf\xf0\0\0\0\0\0\0", NOTHING}, {"\xf6", NOTHING},
    };
    for (size_t at = 0; at < sizeof numbers / sizeof *numbers; at++) {
        const uint8_t *bytes = (const uint8_t *)numbers[at].bytes;
        uint32_t info = bytes[0] & 31, more = info < 24 ? 0 : 1u << (info - 24);
        static const char head[] = "\xa1\x67welcome\xa1\x66window";
        begin_message(&hub);
        for (size_t byte = 0; byte < sizeof head - 1; byte++) {
            item_byte(&hub, (uint8_t)head[byte]);
        }
        for (uint32_t byte = 0; byte <= more; byte++) {
            item_byte(&hub, bytes[byte]);
        }
        check(hub.level == L_DONE && hub.got[W_WINDOW] == numbers[at].is, "a number");
    }
}

static void what_a_full_ring_pushes_out_is_told_in_order_over_many_rounds(void)
{
    uint16_t expected = 0;
    fresh();
    for (uint16_t tag = 0; tag < 400; tag++) {
        check(put(tag), "put");
    }
    for (int at = 0; at < drops; at++) {
        check(dropped[at] == expected++, "dropped in order");
    }
    check(drops + hub.batches == 400, "each is held or told");
    check(hub.bytes <= TELEHUB_QUEUE, "within the ring");
    check(!telehub_put(&hub, said, TELEHUB_QUEUE, 0, 0), "a pack larger than the ring");
}

static void below_next_the_same_numbers_come_again(void)
{
    fresh();
    for (uint16_t tag = 1; tag <= 5; tag++) {
        put(tag);
    }
    greet();
    welcome(0);
    check(hub.phase == WELCOMED, "welcomed");
    say();
    check(hub.sent == 5 && hub.flight == 5, "all sent");
    ack(2);
    check(hub.batches == 3 && hub.first == 3, "two safe");
    telehub_disconnected(&hub, 0);
    greet();
    welcome(1);
    say();
    check(hub.first == 3 && hub.sent == 5 && !renumbers, "from 3 again");
}

static void at_or_above_next_everything_is_renumbered(void)
{
    fresh();
    put(1);
    put(2);
    greet();
    welcome(0);
    say();
    telehub_disconnected(&hub, 0);
    greet();
    welcome(3);
    check(renumbers == 1 && hub.first == 4, "renumbered from 4");
    say();
    check(hub.sent == 5, "4 and 5");
}

static void bad_seq_sends_the_content_under_a_new_number(void)
{
    fresh();
    put(7);
    put(8);
    greet();
    welcome(0);
    say();
    static const char reject[] = "\xa1\x66reject\xa2\x63seq\x01\x64" "code\x67" "bad-seq";
    hear(reject, sizeof reject - 1);
    check(hub.batches == 2 && hub.first == 2, "moved behind the others");
    say();
    check(hub.sent == 3 && peek(&hub, wrap(entry_at(&hub, 1) + 2), 2) == 7, "as number 3");
    check(!rejects, "not told as rejected");
}

static void an_ack_of_what_was_never_sent_ends_the_connection(void)
{
    fresh();
    put(1);
    greet();
    welcome(0);
    say();
    ack(2);
    check(faults == 1 && hub.batches == 1, "a fault, and nothing lost");
    check(telehub_tick(&hub, 0) == TELEHUB_HANG_UP, "hang up");
}

static void ages_survive_the_wrap_of_the_clock(void)
{
    fresh();
    hub.now = UINT32_MAX - 5000;
    put(1);
    hub.now = 5000;
    greet();
    welcome(0);
    say();
    check(hub.age >= 9 && hub.age <= 11, "ten seconds old");
}

static void nothing_heard_for_long_ends_the_connection(void)
{
    fresh();
    greet();
    welcome(0);
    check(telehub_tick(&hub, 20000) == TELEHUB_TALK, "not yet");
    check(telehub_tick(&hub, 46000) == TELEHUB_HANG_UP, "by now");
}

int main(void)
{
    the_words_have_the_hashes_that_the_core_compares();
    the_example_of_rfc_6455_is_proven();
    numbers_of_every_kind_are_read_as_whole_ones();
    what_a_full_ring_pushes_out_is_told_in_order_over_many_rounds();
    below_next_the_same_numbers_come_again();
    at_or_above_next_everything_is_renumbered();
    bad_seq_sends_the_content_under_a_new_number();
    an_ack_of_what_was_never_sent_ends_the_connection();
    ages_survive_the_wrap_of_the_clock();
    nothing_heard_for_long_ends_the_connection();
    puts("10 passed, 0 failed");
    return 0;
}
