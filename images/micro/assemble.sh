#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs as root inside the build root (a Debian of the guest's release, so that compiler, libc and headers fit):
#   /vpctl/images    the sources        /vpctl/guest    the unpacked packages of the guest
#   /vpctl/settings  from recipe.toml   /vpctl/out      what vpctl takes out
# Lines that begin with "step:" are shown as progress.
set -eu
cd /vpctl
. ./settings
sources=/vpctl/images
guest=/vpctl/guest
initramfs=/vpctl/initramfs
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin

compile() {
	echo "step: compile the agent"
	make --no-print-directory -s -C "$sources/agent" vpctl-agent
	cp "$sources/agent/vpctl-agent" out/vpctl-agent
	echo "step: compile init"
	make --no-print-directory -s -C "$sources/micro/init" init
}

# Against the headers of just the kernel that the guest runs: both packages come from the same archive at the same time.
compile_driver() {
	echo "step: compile the driver"
	headers=/usr/src/linux-headers-$kernel
	if [ ! -d "$headers" ]; then
		echo "the guest's kernel is $kernel, and the headers are those of $(echo /usr/src/linux-headers-*)" >&2
		exit 1
	fi
	# cmd_checkdoc: checking comments takes perl, and a test does it.
	PATH=/vpctl/bin:$PATH make --no-print-directory -s -C "$sources/driver" KERNEL="$headers" cmd_checkdoc=:
	strip --strip-debug "$sources"/driver/*.ko
}

prune() {
	echo "step: remove what the guest does not need"
	# Packages of newer kernels keep it beside the modules.
	for vmlinuz in "$guest/boot/vmlinuz-$kernel" "$guest/lib/modules/$kernel/vmlinuz"; do
		[ ! -e "$vmlinuz" ] || mv "$vmlinuz" out/vmlinuz
	done
	# Packed since Debian 13: init wants them plain, and the root is compressed as a whole.
	find "$guest/lib/modules/$kernel" -name '*.ko.xz' -exec unxz {} +
	cp "$guest/lib/modules/$kernel/modules.builtin" "$guest/lib/modules/$kernel/modules.order" /tmp
	mkdir -p kept
	for directory in $KEEP_MODULES; do
		(cd "$guest/lib/modules/$kernel/kernel" && find "$directory" -name '*.ko' | cpio -pdm --quiet /vpctl/kept)
	done
	rm -rf "$guest/lib/modules/$kernel/kernel"
	mv kept "$guest/lib/modules/$kernel/kernel"
	for pattern in $REMOVE; do
		# The pattern is left to the shell: it is one from the recipe.
		rm -rf "$guest"/$pattern
	done
	install -D -m 644 -t "$guest/lib/modules/$kernel/updates" "$sources"/driver/*.ko
	depmod -b "$guest" "$kernel"
}

# Packages were unpacked, not installed: this is what their maintainer scripts would have done.
configure() {
	echo "step: configure the guest"
	cp "$guest/usr/share/base-passwd/passwd.master" "$guest/etc/passwd"
	cp "$guest/usr/share/base-passwd/group.master" "$guest/etc/group"
	sed -i 's|^root:[^:]*:0:0:root:/root:.*|root:*:0:0:root:/root:/bin/bash|' "$guest/etc/passwd"
	echo 'tcpdump:*:100:100::/nonexistent:/usr/sbin/nologin' >>"$guest/etc/passwd"
	echo 'tcpdump:x:100:' >>"$guest/etc/group"
	cp -a "$sources/micro/files/." "$guest/"
	chown -R 0:0 "$guest/etc" "$guest/root"
	chmod 700 "$guest/root"
	mkdir -p "$guest/dev" "$guest/proc" "$guest/sys" "$guest/run" "$guest/tmp" "$guest/etc/dropbear"
	ln -sf gawk "$guest/usr/bin/awk"
	ln -sf nc.openbsd "$guest/usr/bin/nc"
	ln -sf ../proc/self/mounts "$guest/etc/mtab"
	install -m 755 out/vpctl-agent "$guest/usr/bin/vpctl-agent"
	busybox_links
	ldconfig -r "$guest"
}

# Busybox fills the gaps (vi, poweroff, wget …) and replaces nothing.
busybox_links() {
	for applet in $("$guest/bin/busybox" --list); do
		[ "$applet" = busybox ] || [ -e "$guest/usr/bin/$applet" ] || [ -e "$guest/usr/sbin/$applet" ] ||
			ln -s busybox "$guest/usr/bin/$applet"
	done
	# util-linux would talk to a service manager that is not there.
	for applet in poweroff reboot halt; do
		ln -sf ../bin/busybox "$guest/usr/sbin/$applet"
	done
}

make_initramfs() {
	echo "step: make the initramfs"
	mkdir -p "$initramfs/modules" "$initramfs/dev" "$initramfs/root"
	install -m 755 "$sources/micro/init/init" "$initramfs/init"
	for module in $BOOT_MODULES; do
		modprobe -d "$guest" -S "$kernel" --show-depends "$module"
	done | sed -n 's/^insmod \([^ ]*\).*/\1/p' >/tmp/modules
	while read -r path; do
		name=$(basename "$path")
		[ -e "$initramfs/modules/$name" ] && continue
		cp "$path" "$initramfs/modules/$name"
		echo "$name" >>"$initramfs/modules/order"
	done </tmp/modules
	# Not compressed: QEMU hands it over as memory, and an emulated guest unpacks slowly.
	(cd "$initramfs" && find . | cpio -o -H newc -R 0:0 --quiet) >out/initrd.img
}

make_root() {
	echo "step: compress the root"
	mksquashfs "$guest" out/root.squashfs $SQUASHFS_OPTIONS -all-time 0 -no-progress -quiet -noappend >/dev/null
	echo "$kernel" >out/kernel-release
}

mkdir -p out bin
ln -s /usr/bin/gawk bin/awk # the link that gawk's maintainer script would make
kernel=$(basename "$guest"/lib/modules/*)
compile
compile_driver
prune
configure
make_initramfs
make_root
