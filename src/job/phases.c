// SPDX-License-Identifier: Apache-2.0
// The phases of a migration in their order. Each may be killed anywhere and run again.
#include "job/internal.h"

const struct phase job_phases[] = {
    {"inspect", "reading the description and what of the disks is in use", phase_inspect,
     NULL},
    {"plan", "checking the target", phase_plan, NULL},
    {"copy", "moving blocks", phase_copy, phase_copy_undo},
    {"verify", "comparing the replica with its map", phase_verify, NULL},
    {"convert", "making the guest boot on virtio, on an overlay", phase_convert,
     phase_convert_undo},
    {"flatten", "bringing the disks into the format asked for", phase_flatten, NULL},
    {"import", "defining the machine", phase_import, phase_import_undo},
    {"launch", "starting the machine", phase_launch, NULL},
    {0},
};
