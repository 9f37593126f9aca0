// SPDX-License-Identifier: Apache-2.0
// The input is the Ethernet type (big-endian) and a frame behind its link's header: who
// asks for us, and who has an address. What is answered fits, and says what it is to say.
#include "fuzz.h"

#include <arpa/inet.h>

#include "agent/isolate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t mac[6] = {2, 1, 2, 3, 4, 5}, from[6] = {2, 9, 9, 9, 9, 9};
    uint8_t frame[QUESTION_FRAME_MAX];
    struct question q;
    struct address who, own = {0}, said;
    if (size < 2)
        return 0;
    size_t len = size - 2;
    uint8_t *copy = xmalloc(len ? len : 1); // of its own: one byte too far is seen
    memcpy(copy, data + 2, len);
    if (question_parse(get_be16(data), copy, len, &q)) {
        assert(q.who.len == (q.who.family == AF_INET ? 4 : 16));
        own.family = q.who.family;
        own.len = q.who.len;
        memcpy(own.bytes, mac, sizeof(mac));
        size_t n = question_answer(&q, &own, mac, from, frame);
        assert(n <= sizeof(frame) && memcmp(frame + 6, from, sizeof(from)) == 0);
        assert(question_claims(get_be16(frame + 12), frame + 14, n - 14, &said));
        assert(address_is(&said, &own));
        n = question_probe(&q.who, from, frame);
        assert(n <= sizeof(frame) &&
               !question_claims(get_be16(frame + 12), frame + 14, n - 14, &said));
    }
    if (question_claims(get_be16(data), copy, len, &who))
        assert(who.family == AF_INET || who.family == AF_INET6);
    free(copy);
    return 0;
}
