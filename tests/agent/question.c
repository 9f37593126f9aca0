// SPDX-License-Identifier: Apache-2.0
// What is a call of a silent server, and what is not.
#include "../unit/tap.h"
#include "agent/isolate.h"

#include <linux/if_ether.h>

static bool is_call(uint16_t protocol, uint8_t flags, size_t header, size_t len)
{
    uint8_t frame[128] = {0};
    struct question q = {0};
    if (protocol == ETH_P_IP) {
        frame[0] = (uint8_t)(0x40 | header / 4);
        frame[9] = 6;
    } else {
        frame[0] = 0x60;
        frame[6] = 6;
    }
    frame[header + 13] = flags;
    return question_parse(protocol, frame, len, &q) && q.call;
}

int main(void)
{
    ok(is_call(ETH_P_IP, 0x02, 20, 60), "a connection that begins");
    ok(is_call(ETH_P_IP, 0x02 | 0xc0, 20, 60), "... with congestion notification");
    ok(is_call(ETH_P_IP, 0x02, 60, 100), "... behind options");
    ok(is_call(ETH_P_IPV6, 0x02, 40, 60), "... by IPv6");
    ok(!is_call(ETH_P_IP, 0x11, 20, 60), "not the end of one, sent again");
    ok(!is_call(ETH_P_IPV6, 0x11, 40, 60), "... by IPv6");
    ok(!is_call(ETH_P_IP, 0x18, 20, 60), "not what one carries");
    ok(!is_call(ETH_P_IP, 0x04, 20, 60), "not a reset");
    ok(!is_call(ETH_P_IP, 0x12, 20, 60), "not the answer to a call of ours");
    ok(!is_call(ETH_P_IP, 0x02, 20, 33), "not a segment without its flags");
    ok(!is_call(ETH_P_IP, 0x02, 60, 40), "... behind options");
    return done_testing();
}
