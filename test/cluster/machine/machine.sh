#!/bin/bash
# Process 1 of a machine of the test cluster. It is started in namespaces of its own (mounts, network, processes, host
# name, IPC, cgroups), makes a root file system of its own there, says `ready`, and from then on only reaps orphans.
# When it dies the kernel ends every process of the machine and takes its mounts and interfaces away.
#
#   machine.sh NAME DIRECTORY [READ-ONLY-PATH...]
#
# DIRECTORY is the machine's on disk (`var` lies there, because an overlay file system cannot stand on a tmpfs-overlay);
# it and the read-only paths are seen inside at the same place as outside. Everything else is a copy, or in memory.
set -euo pipefail
name=$1
directory=$2
shift 2

hostname "$name"
mount --make-rprivate /
root=$directory/root
mkdir -p "$root" "$directory"/var/{lib,log,cache,tmp} "$directory/var/lib/kubelet" "$directory/var/lib/containerd"
mount -t tmpfs -o mode=755 machine "$root"
cd "$root"
mkdir -p usr etc proc sys dev run tmp var root opt/cni/bin etc/cni/net.d
chmod 1777 tmp "$directory/var/tmp"

# Programs are the host's, which nobody here may change.
for link in bin sbin lib lib32 lib64 libx32; do
  if [ -L "/$link" ]; then cp -P "/$link" "$link"; fi
done
mount --bind /usr usr
mount -o remount,bind,ro usr
for file in alternatives ca-certificates.conf group ld.so.cache ld.so.conf ld.so.conf.d localtime nsswitch.conf passwd \
  protocols services ssl/certs ssl/openssl.cnf; do
  if [ -e "/etc/$file" ]; then (cd /etc && cp -a --parents "$file" "$root/etc/"); fi
done
echo "$name" >etc/hostname
md5sum <<<"$directory" | cut -c1-32 >etc/machine-id
printf '127.0.0.1 localhost\n::1 localhost\n' >etc/hosts
cp "$directory/resolv.conf" etc/resolv.conf

mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o mode=755 run run
mount --bind "$directory/var" var
ln -sfn /run var/run
ln -sfn /run/lock var/lock
mkdir -p run/lock run/netns

# Cgroup file systems that begin at the machine's own groups, where the host has them: the host's are seen in its mounts.
mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup
while read -r _ _ _ _ point _ rest; do
  type=${rest#*- }
  options=${type##* }
  type=${type%% *}
  case "$type $point" in
    "cgroup /sys/fs/cgroup/"*)
      controllers=$(tr ',' '\n' <<<"$options" | grep -vxE 'rw|ro|relatime|xattr|clone_children|release_agent=.*' | paste -sd,)
      mkdir -p ".$point"
      mount -t cgroup -o "$controllers" cgroup ".$point"
      ;;
    "cgroup2 /sys/fs/cgroup/"*)
      mkdir -p ".$point"
      mount -t cgroup2 cgroup2 ".$point"
      ;;
  esac
done </proc/1/mountinfo
mkdir -p sys/fs/bpf
mount -t bpf -o mode=700 bpf sys/fs/bpf

# Kubelet wants these settings of the whole kernel: it finds them as it likes them, and the kernel is left alone.
mkdir run/sysctl
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  path=${setting%=*}
  [ -e "proc/sys/$path" ] || continue
  echo "${setting#*=}" >"run/sysctl/${path//\//.}"
  mount --bind "run/sysctl/${path//\//.}" "proc/sys/$path"
done

# Connections that killed processes leave behind would hold the machine's network, with its interface on the host, for
# another minute. Pods have networks of their own, with settings of their own.
echo 1 >proc/sys/net/ipv4/tcp_fin_timeout
echo 1 >proc/sys/net/ipv4/tcp_orphan_retries

for path in "$@"; do
  mkdir -p ".$path"
  mount --bind "$path" ".$path"
  mount -o remount,bind,ro ".$path"
done
# Its own directory lies in one of them.
mkdir -p ".$directory"
mount --bind "$directory" ".$directory"

mkdir outside
pivot_root . outside
cd /
umount -l /outside
rmdir /outside
# Mounts that a container propagates arrive at all of the machine, as kubelet expects.
mount --make-rshared /
echo ready
exec </dev/null >/dev/null 2>&1
# bash reaps every child that it is given when its own ends.
while :; do
  sleep 3600 &
  wait $! || true
done
