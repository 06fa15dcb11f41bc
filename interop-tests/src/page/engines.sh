# Engines that pages start: real ones, with what they keep in the scene, so that it goes with it. A host of the scene has the same file
# system as the others, so a page starts its engine at one of them.
docker() { DOCKER_CONFIG=/run/scene/docker-config PATH=/usr/bin:/usr/sbin:/sbin:/bin command docker "$@"; }
# A folder that becomes a root of containers: BusyBox, and nothing else. Whatever an image is called, it waits.
busybox_root() {
    mkdir -p "$1"/{bin,proc,sys,dev,etc,tmp}
    cp "$(command -v busybox)" "$1/bin/busybox"
    for applet in sh sleep ping ip nslookup cat; do ln -sf busybox "$1/bin/$applet"; done
}
# dockerd, with images of these names.
dockerd_with() {
    unshare --mount --propagation private sh -ec '
        mkdir -p /run/scene/cgroup
        mount --rbind /sys/fs/cgroup /run/scene/cgroup
        mount -t sysfs sysfs /sys
        mount --rbind /run/scene/cgroup /sys/fs/cgroup
        PATH=/usr/sbin:/usr/bin:/sbin:/bin exec dockerd --data-root /run/scene/docker-data >/run/scene/dockerd.log 2>&1' &
    until_ok docker info || { tail -20 /run/scene/dockerd.log; return 1; }
    busybox_root /run/scene/root
    tar -C /run/scene/root -cf /run/scene/root.tar .
    for image in "$@"; do docker import --change 'CMD ["sleep","10000"]' /run/scene/root.tar "$image"; done
}
# containerd, with an image of this name.
containerd_with() {
    for folder in /etc/cni /opt/cni; do mkdir -p $folder; mount -t tmpfs none $folder; done
    mkdir -p /opt/cni/bin /etc/cni/net.d
    for plugin in /usr/lib/cni/*; do ln -s "$plugin" /opt/cni/bin/; done
    printf 'version = 2\nroot = "/run/scene/containerd"\nstate = "/run/containerd-state"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n' >/run/scene/containerd.toml
    containerd -c /run/scene/containerd.toml >/run/scene/containerd.log 2>&1 &
    until_ok ctr version || { tail -20 /run/scene/containerd.log; return 1; }
    busybox_root /run/scene/root
    image_of_root "$1"
    ctr image import /run/scene/image.tar
}
# The folder as an image (OCI image layout 1.0), in a tar that containerd takes.
image_of_root() {
    local at=/run/scene/image blobs=/run/scene/image/blobs/sha256
    mkdir -p $blobs
    blob() { local sum; sum=$(sha256sum <"$1" | cut -d' ' -f1); mv "$1" $blobs/"$sum"; echo "$sum"; }
    tar -C /run/scene/root -cf $at/layer .
    local size layer config manifest
    size=$(stat -c %s $at/layer); layer=$(blob $at/layer)
    printf '{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/sleep","10000"],"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' "$layer" >$at/config
    local config_size; config_size=$(stat -c %s $at/config); config=$(blob $at/config)
    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:%s","size":%s}]}' "$config" "$config_size" "$layer" "$size" >$at/manifest
    size=$(stat -c %s $at/manifest); manifest=$(blob $at/manifest)
    printf '{"imageLayoutVersion":"1.0.0"}' >$at/oci-layout
    printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%s,"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}]}' "$manifest" "$size" "$1" "$1" >$at/index.json
    tar -C $at -cf /run/scene/image.tar .
}
