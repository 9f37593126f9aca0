// SPDX-License-Identifier: Apache-2.0
// The phases of a migration in their order. Each may be killed anywhere and run again.
#include "job/internal.h"

static bool wants_verify(const struct job_request *r)
{
    return r->verify != VERIFY_NONE;
}

static bool wants_convert(const struct job_request *r)
{
    return !r->no_convert;
}

static bool wants_flatten(const struct job_request *r)
{
    return r->format != NULL;
}

static bool wants_launch(const struct job_request *r)
{
    return r->start;
}

const struct phase job_phases[] = {
    {"inspect", "reading what the machine is and what of its disks is in use",
     phase_inspect, NULL, NULL},
    {"plan", "checking the target", phase_plan, NULL, NULL},
    {"copy", "moving blocks", phase_copy, phase_copy_undo, NULL},
    {"verify", "comparing the replica with its map", phase_verify, NULL, wants_verify},
    {"convert", "making the guest boot on virtio, on an overlay", phase_convert,
     phase_convert_undo, wants_convert},
    {"flatten", "bringing the disks into the format asked for", phase_flatten, NULL,
     wants_flatten},
    {"import", "defining the machine", phase_import, phase_import_undo, NULL},
    {"launch", "starting the machine", phase_launch, NULL, wants_launch},
    {0},
};
