#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# appliance: this exercises what boot media are made of: boot records for BIOS and UEFI, files, the kernel's command line, who
# may read a token, and what is refused. tests/e2e/iso boots them.
. "$(dirname "$0")/../lib.sh"
requires grub-mkrescue grub-mknetdir xorriso mformat jq

mkdir built
for f in vmlinux helper.cpio vmlinuz metal.cpio.zst; do echo "this is $f" > "built/$f"; done
export GODWIT_APPLIANCE="$work/built"
of_iso() { xorriso -indev "$1" -osirrox on -extract "$2" ./extracted 2> /dev/null && cat extracted; }

is 0 "appliance iso" "$godwit" appliance iso
[ "$(cat out)" = godwit.iso ] && [ "$(stat -c %a godwit.iso)" = 644 ]
ok "it is godwit.iso"
xorriso -indev godwit.iso -report_el_torito plain -report_system_area plain > report 2> /dev/null
grep -q 'boot img.* BIOS ' report && grep -q 'boot img.* UEFI ' report
ok "as a CD it boots by BIOS and by UEFI"
grep -q 'MBR .*grub2-mbr.* GPT' report && grep -q 'GPT partition path .*/efi.img' report
ok "as a stick too"
[ "$(of_iso godwit.iso /boot/vmlinuz)" = "this is vmlinuz" ] && rm extracted &&
    [ "$(of_iso godwit.iso /boot/metal.cpio.zst)" = "this is metal.cpio.zst" ] && rm extracted
ok "kernel and initramfs are in it"
of_iso godwit.iso /boot/grub/grub.cfg > grub.cfg && rm extracted
has "linux /boot/vmlinuz console=tty0 console=ttyS0,115200 quiet godwit.role=metal" grub.cfg "the menu starts them with both consoles"
! grep -q godwit.dial grub.cfg
ok "nothing of where godwit is"

printf 'tokentokentoken23\n' > token
is 0 "with address, token and more, over what was there" "$godwit" appliance iso -o godwit.iso --dial '[2001:db8::9]:7443' \
    --token-file token --append 'godwit.ip=192.0.2.21/24,192.0.2.1,eth1'
has "whoever has godwit.iso has the token" err "... it says who has the token"
! grep -q tokentoken out err
ok "... and not what it is"
[ "$(stat -c %a godwit.iso)" = 600 ]
ok "... the image is for its owner only"
of_iso godwit.iso /boot/grub/grub.cfg > grub.cfg && rm extracted
has "godwit.dial=[2001:db8::9]:7443 godwit.token=tokentokentoken23 godwit.ip=192.0.2.21/24,192.0.2.1,eth1" grub.cfg \
    "all of it stands in the menu"

is 0 "appliance pxe --json" "$godwit" appliance pxe -o tftp --dial 192.0.2.9:7443 --json
jq -e '.made == "pxe" and .path == "tftp"' out > /dev/null
ok "... says where"
cmp built/vmlinuz tftp/vmlinuz && cmp built/metal.cpio.zst tftp/metal.cpio.zst &&
    [ -s tftp/grub/i386-pc/core.0 ] && [ -s tftp/grub/x86_64-efi/core.efi ]
ok "kernel, initramfs and boot programs are there"
[ "$(grep -lr godwit.dial=192.0.2.9:7443 tftp | sort | tr '\n' ' ')" = "tftp/godwit.ipxe tftp/grub/grub.cfg tftp/pxelinux.cfg/default " ]
ok "three boot loaders know where godwit is"

echo mine > mine.raw
is 3 "a file that is no ISO image is kept" "$godwit" appliance iso -o mine.raw
[ "$(cat mine.raw)" = mine ]
ok "... as it is"
printf 'two words\n' > bad-token
for line in "" "floppy" "pxe" "iso --dial godwit.example:7443" "iso --dial 192.0.2.9" "iso --dial 192.0.2.9:0" \
    "iso --token-file bad-token" "iso --append a;b"; do
    # shellcheck disable=SC2086
    is 2 "godwit appliance $line" "$godwit" appliance $line
done
is 1 "a token file that is not there" "$godwit" appliance iso --token-file nowhere
rm built/metal.cpio.zst
is 1 "an appliance of before" "$godwit" appliance iso -o other.iso
has "has no metal.cpio.zst" err "... says what is missing"
mkdir bin && for p in xorriso mformat; do ln -s "$(command -v $p)" bin/; done
is 1 "without GRUB" env PATH="$work/bin" "$godwit" appliance iso -o other.iso
has "apt install grub-common" err "... the package is named"
[ "$(find . -maxdepth 1 -name '*.iso*' | tr '\n' ' ')" = "./godwit.iso " ]
ok "what failed left nothing behind"
done_testing
