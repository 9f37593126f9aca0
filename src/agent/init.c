// SPDX-License-Identifier: Apache-2.0
// `godwit-init`: process 1 of the appliance, which is the agent with guest/ in it. Which
// role it plays is said by godwit.role= on the kernel's command line. Started otherwise
// it only describes itself.
#include "agent/agent.h"

#include <stdio.h>
#include <unistd.h>

static int run_appliance(void)
{
    char role[32] = "metal";
    struct err e;
    boot_system();
    (void)boot_parameter("godwit.role", role, sizeof(role)); // absent: metal
    if (strcmp(role, "appliance") == 0 && helper_serve(&e) < 0) {
        log_line(LOG_ERROR, "%s", e.text);
        boot_power_off();
    }
    metal_run();
}

int main(int argc, char **argv)
{
    if (getpid() == 1)
        return run_appliance();
    if (argc == 2 && strcmp(argv[1], "--calls") == 0) {
        calls_print(helper_calls, n_helper_calls);
        return 0;
    }
    bool help = argc == 2 && strcmp(argv[1], "--help") == 0;
    fprintf(help ? stdout : stderr,
            "usage: godwit-init --calls    the control calls it answers, as a table\n"
            "In the appliance it is process 1 and takes no options.\n");
    return help ? 0 : ERR_USAGE;
}
