# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# For the scripts that make guests' disks, as root. After sourcing (set -eu):
#
#   cached KIND FILE…       where KIND lies that these files make: $out; takes its lock. Prints nothing. 0: it is there
#   begin                   it is made now: $work is a folder that goes with the script, stdout goes to stderr, 3 is stdout
#   bootstrap SUITE PACKAGES HOOK    a Debian in $work/root; HOOK runs with its folder, once it is installed; $init: its
#                           process 1 instead of systemd
#   whole_disk FILE         a loop device with partitions over it, in $whole; $disk is FILE
#   part NUMBER             offset and size of a partition of $disk, in bytes
#   attach OFFSET SIZE      a loop device over that part of $disk, in $loop
#   lvm_do COMMAND…         LVM on the devices in $pvs (commas between) without the device mapper, which this kernel may lack:
#                           LVM writes its metadata, and a loop device at the place that it gave a volume is the volume
#   in_root on|off          the kernel's folders for a chroot in $work/mnt
#   menu UUID KERNELS ROOT ARGUMENTS INSMOD…    GRUB's menu as grub-mkconfig writes it, on stdout
#   let_go                  the loop devices
#   done_making             $out takes the place of $work

cached() {
    local kind=$1
    shift
    local cache=${GODWIT_CACHE:-/var/cache/godwit}/tests id
    id=$( (cat "$@"; echo "$kind") | sha256sum | cut -c1-12)
    out=$cache/$kind-$id
    work=$out.tmp
    mkdir -p "$cache"
    exec 9> "$cache/$kind.lock"
    flock 9
    if [ -e "$out/facts" ]; then
        touch -c "$out" 2> /dev/null || true # it is in use
        return 0
    fi
    [ "$(id -u)" = 0 ] || { echo "making a guest needs root for loop devices" >&2; exit 77; }
    # What an older version of these files made, unless another worktree has used it this day.
    find "$cache" -mindepth 1 -maxdepth 1 -name "$kind-*" -mmin +1440 -exec rm -rf {} +
    return 1
}

loops=
undo_making() {
    set +e
    # Mounts of a killed mmdebstrap too: what is removed below must not be the kernel's, or this machine's.
    awk -v below="${work:?}/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | tac | xargs -r -d '\n' -n 1 umount -l
    let_go
    rm -rf --one-file-system "$work"
}
begin() {
    rm -rf --one-file-system "${work:?}"
    mkdir -p "$work/root" "$work/mnt"
    # Everything that must be undone: mounts live in a mount namespace of our own, loops are let go.
    trap undo_making EXIT
    trap 'exit 130' INT TERM HUP
    exec 3>&1 1>&2 # stdout is for the name alone
}
let_go() {
    local l
    for l in $loops; do partx -d "$l" 2> /dev/null || true; losetup -d "$l" || true; done
    loops=
}
done_making() {
    rm -rf --one-file-system "$work/root" "$work/mnt"
    rm -rf "${out:?}"
    mv "$work" "$out"
}

bootstrap() {
    mmdebstrap --quiet --variant=minbase --mode=root --skip=check/empty \
        --include="initramfs-tools,${init:-systemd-sysv},udev,ifupdown,iproute2,kmod,zstd,$2" \
        --aptopt='APT::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --customize-hook="$3" "$1" "$work/root"
}

whole_disk() {
    disk=$1
    whole=$(losetup -f --show "$disk")
    loops="$loops $whole"
    partx -u "$whole" # not -a: a loop device may still have partitions of an earlier disk
}
part() {
    sfdisk -J "$disk" | jq -r ".partitiontable.partitions[$(($1 - 1))] | \"\(.start * 512) \(.size * 512)\""
}
attach() {
    loop=$(losetup -f --show -o "$1" --sizelimit "$2" "$disk")
    loops="$loops $loop"
}
lvm_do() {
    mkdir -p "$work/lvm"
    echo 'backup { backup=0 archive=0 }' > "$work/lvm/lvm.conf"
    LVM_SYSTEM_DIR=$work/lvm lvm "$@" --driverloaded n --devices "$pvs"
}

in_root() {
    local d
    case $1 in
    on) for d in dev proc sys; do mount --rbind "/$d" "$work/mnt/$d"; mount --make-rslave "$work/mnt/$d"; done ;;
    off) umount -R "$work/mnt/dev" "$work/mnt/proc" "$work/mnt/sys" ;;
    esac
}

menu() {
    local uuid=$1 kernels=$2 root=$3 arguments=$4 version title
    shift 4
    version=$(ls "$work/mnt/lib/modules")
    echo 'set default="0"'
    echo 'set timeout=0'
    for title in "Debian GNU/Linux" "Debian GNU/Linux (recovery mode)"; do
        printf "menuentry '%s' --class debian --class gnu-linux {\n" "$title"
        printf '\tinsmod %s\n' "$@"
        printf '\tsearch --no-floppy --fs-uuid --set=root %s\n' "$uuid"
        printf "\techo 'Loading Linux %s ...'\n" "$version"
        printf '\tlinux %s/vmlinuz-%s root=%s ro %s\n' "$kernels" "$version" "$root" \
            "$arguments$(case $title in *recovery*) echo single ;; esac)"
        printf '\tinitrd %s/initrd.img-%s\n}\n' "$kernels" "$version"
    done
}
