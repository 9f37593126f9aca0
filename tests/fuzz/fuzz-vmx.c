// SPDX-License-Identifier: Apache-2.0
// A VMware .vmx: refused with a reason, or a machine within its limits whose disks lie
// where they may.
#include "fuzz_machine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_text("vmx", data, size);
    return 0;
}
