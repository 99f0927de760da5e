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
    char accept[PROOF + 1] = {0}, answer[160];
    telehub_connected(&hub, hub.now);
    size_t len = say();
    check(len > 100 && !memcmp(said, "GET /v1/devices/d HTTP/1.1\r\n", 28), "request");
    /* Reading the proof uses it up. */
    struct telehub copy = hub;
    copy.arg = 0;
    for (uint32_t at = 0; at < PROOF; at++) {
        accept[at] = (char)proof(&copy);
    }
    snprintf(answer, sizeof answer,
             "HTTP/1.1 101 Switching\r\nsec-websocket-ACCEPT:%s= \r\nX: y\r\n\r\n", accept);
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

static uint32_t word_of(const char *text)
{
    hub.hash = hash_text(text);
    return word(&hub);
}

static void the_words_have_the_hashes_that_the_core_compares(void)
{
    static const char *const words[W_OTHER] = {
        "seq", "ping_interval", "ping_timeout", "max_message", "max_rate", "window", "stream",
        "result", "code", "welcome", "ack", "reject",
#if TELEHUB_COMMANDS
        "command", "id", "name", "args",
#endif
        "http/1.0", "http/1.1", "retry-after", "sec-websocket-accept",
    };
    for (uint8_t at = 0; at < W_OTHER; at++) {
        check(word_of(words[at]) == at, words[at]);
    }
    check(word_of("time_s") == W_OTHER, "a word that means nothing here");
    check(hash_text("bad-seq") == H_BAD_SEQ, "bad-seq");
    check(hash_text("unknown-kind") == H_UNKNOWN_KIND, "unknown-kind");
}

static void the_example_of_rfc_6455_is_proven(void)
{
    /* The key of RFC 6455 §1.3; what stands behind it is the core's own. */
    static const char key[] = "dGhlIHNhbXBsZSBub25jZQ==", accept[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    make_key(&hub);
    memcpy(hub.ctl, key, sizeof key - 1);
    sha1(hub.ctl, hub.proof + 1);
    hub.arg = 0;
    for (uint32_t at = 0; at < sizeof accept - 1; at++) {
        check((char)proof(&hub) == accept[at], "Sec-WebSocket-Accept");
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

/* What a refused upgrade leaves behind: the code, the pause that was wished for. */
static void refused(const char *head, uint16_t code, uint16_t wish)
{
    fresh();
    telehub_connected(&hub, 0);
    say();
    telehub_input(&hub, (const uint8_t *)head, strlen(head), 1);
    check(faults == 1 && telehub_tick(&hub, 1) == TELEHUB_HANG_UP, head);
    check(hub.code == code && hub.wish == wish, head);
    telehub_disconnected(&hub, 1);
    check(telehub_tick(&hub, 1) == TELEHUB_WAIT, head);
}

static void an_answer_is_read_whatever_its_case_and_its_blanks(void)
{
    refused("HTTP/1.1 503 Service Unavailable\r\nRETRY-after:\t 7 \r\n\r\n", 503, 7);
    refused("http/1.0 429 429\nretry-after:99999999999\n\n", 429, LONGEST_WISH);
    refused("HTTP/1.1 401\r\nRetry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\n\r\n", 401, 0);
    refused("HTTP/1.1 101 x\r\n: Retry-After: 5\r\nx-retry-after: 5\r\n\r\n", 101, 0);
    refused("HTTP/1.1 101 x\r\nSec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n", 101, 0);
    refused("SSH-2.0-OpenSSH_9.2\r\n\r\n", 0, 0);
}

static void every_end_has_its_pause(void)
{
    static const struct { uint16_t code; uint32_t least, most; } ends[] = {
        {0, 400, 1000}, {302, 400, 1000}, {400, 3600000, 7200000}, {428, 3600000, 7200000},
        {429, 400, 1000}, {430, 3600000, 7200000}, {499, 3600000, 7200000}, {500, 400, 1000},
        {1000, 400, 1000}, {1001, 1000, 5000}, {1002, 60000, 121000}, {1008, 60000, 121000},
        {1009, 1000, 5000}, {1011, 400, 1000}, {1013, 1000, 5000}, {1014, 400, 1000},
        {4000, 400, 1000}, {4001, 60000, 121000}, {4003, 60000, 121000}, {4004, 400, 1000},
        {16383, 400, 1000}, {65535, 400, 1000},
    };
    for (size_t at = 0; at < sizeof ends / sizeof *ends; at++) {
        for (int tries = 0; tries < 50; tries++) {
            fresh();
            telehub_connected(&hub, 0);
            hub.code = ends[at].code;
            telehub_disconnected(&hub, 0);
            uint32_t pause = telehub_pause(&hub, 0);
            check(pause >= ends[at].least && pause <= ends[at].most, "a pause");
        }
    }
}

int main(void)
{
    the_words_have_the_hashes_that_the_core_compares();
    fresh();
    the_example_of_rfc_6455_is_proven();
    numbers_of_every_kind_are_read_as_whole_ones();
    what_a_full_ring_pushes_out_is_told_in_order_over_many_rounds();
    below_next_the_same_numbers_come_again();
    at_or_above_next_everything_is_renumbered();
    bad_seq_sends_the_content_under_a_new_number();
    an_ack_of_what_was_never_sent_ends_the_connection();
    ages_survive_the_wrap_of_the_clock();
    nothing_heard_for_long_ends_the_connection();
    an_answer_is_read_whatever_its_case_and_its_blanks();
    every_end_has_its_pause();
    puts("12 passed, 0 failed");
    return 0;
}
