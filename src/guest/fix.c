// SPDX-License-Identifier: Apache-2.0
// The table of fixes. The initramfs comes first because it is the one that may have to
// refuse.
#include "guest/fixes.h"

static bool always(const struct guest *g)
{
    (void)g;
    return true;
}

static bool is_uefi(const struct guest *g)
{
    return g->uefi;
}

const struct fix fixes[] = {
    {
        .name = "initramfs-drivers",
        .why = "every kernel needs the new disks' drivers before it can mount its root",
        .applies = always,
        .check = fix_initramfs_check,
        .apply = fix_initramfs,
    },
    {
        .name = "fstab",
        .why = "names like /dev/sda1 change with the hardware, UUIDs do not",
        .applies = always,
        .apply = fix_fstab,
    },
    {
        .name = "lvm",
        .why = "a filter that accepts /dev/sda alone hides the volumes on other disks",
        .applies = always,
        .apply = fix_lvm,
    },
    {
        .name = "mdadm",
        .why = "a list of disks that says /dev/sda alone hides the arrays on others",
        .applies = always,
        .apply = fix_mdadm,
    },
    {
        .name = "resume",
        .why = "an initramfs that looks for a swap device of the old name waits in vain",
        .applies = always,
        .apply = fix_resume,
    },
    {
        .name = "boot-loader",
        .why = "the kernel is told its root by a name that holds on the new hardware",
        .applies = always,
        .apply = fix_grub,
    },
    {
        .name = "network-names",
        .why = "every NIC keeps its old name, so that its addresses still apply",
        .applies = always,
        .apply = fix_network,
    },
    {
        .name = "godwit-agent",
        .why = "the agent came along with its source: its keys and its fence stay there",
        .applies = always,
        .apply = fix_agent,
    },
    {
        .name = "uefi-fallback",
        .why = "firmware without the old boot entries starts EFI/BOOT/BOOTX64.EFI",
        .applies = is_uefi,
        .apply = fix_uefi,
    },
    {0},
};
