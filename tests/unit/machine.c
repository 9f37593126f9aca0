// SPDX-License-Identifier: Apache-2.0
// Choosing a reader, bare images, JSON, names.
#include "machine_test.h"

static void test_image(void)
{
    struct err e;
    struct machine *m = read_text("My Disk.qcow2", "QFI\xfb", &e);
    ok(m && m->n_disks == 1 && m->n_nics == 1 && m->cpus == 2 && m->memory == 2 * GIB,
       "a bare image");
    is_str(m ? m->name : NULL, "My-Disk", "is named after its file");
    ok(m && !m->disks[0].format, "its format is for QEMU to tell");
    ok(m && !m->firmware_known, "its firmware is not known");
    machine_free(m);
    m = read_text("d.raw", "x", &e);
    is_str(m ? m->disks[0].format : NULL, "raw", "a .raw is raw");
    machine_free(m);
    m = read_text("d.vmdk", "# Disk DescriptorFile\nconfig.version\n", &e);
    ok(m && m->n_disks == 1 && !strcmp(disk_name(m, 0), "d.vmdk"), "a .vmdk is no .vmx");
    machine_free(m);
    m = read_text("d.img",
                  "<domain><devices><disk><source file='/etc/shadow'/></disk>"
                  "</devices></domain>",
                  &e);
    ok(m && !strcmp(disk_name(m, 0), "d.img"),
       "a disk that claims to be a domain is a disk");
    machine_free(m);
    m = read_text("disk", "nothing known", &e);
    ok(m && !strcmp(disk_name(m, 0), "disk"), "anything else is an image");
    machine_free(m);
}

static void test_sources(void)
{
    struct err e;
    struct machine *m = NULL;
    AUTO(str_free) char *gone = at("gone.vmdk");
    ok(machine_read(&(struct machine_options){.path = gone}, &m, &e) < 0 &&
           strstr(e.text, "gone.vmdk"),
       "a source that is not there");
    ok(machine_read(&(struct machine_options){.path = test_dir}, &m, &e) < 0 &&
           e.code == ERR_REFUSED,
       "a folder");
    AUTO(str_free) char *pipe = at("pipe.vmx");
    if (mkfifo(pipe, 0600) < 0)
        exit(1);
    ok(machine_read(&(struct machine_options){.path = pipe}, &m, &e) < 0 &&
           e.code == ERR_REFUSED,
       "a pipe does not hang us");
    AUTO(str_free) char *big = at("big.xml");
    put_text("big.xml", "<domain/>");
    if (truncate(big, 17 << 20) < 0)
        exit(1);
    ok(machine_read(&(struct machine_options){.path = big}, &m, &e) < 0 &&
           e.code == ERR_REFUSED && strstr(e.text, "16 MiB"),
       "a description of 17 MiB");
}

static void test_names(void)
{
    static const struct {
        const char *text, *name;
    } names[] = {
        {"web-01.example", "web-01.example"},
        {"../../etc/passwd", "etc-passwd"},
        {"", "guest"},
        {"...", "guest"},
        {"--option", "option"},
        {"a  b", "a-b"},
        {"caf\xc3\xa9", "caf"},
        {"x.", "x"},
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        AUTO(str_free) char *name = machine_safe_name(names[i].text);
        is_str(name, names[i].name, "a safe name");
    }
    char longer[200];
    memset(longer, 'a', sizeof(longer) - 1);
    longer[199] = 0;
    AUTO(str_free) char *name = machine_safe_name(longer);
    is_u64(strlen(name), 64, "no longer than 64");
    ok(!machine_mac("52:54:00:12:34") && !machine_mac("52:54:00:12:34:5g") &&
           !machine_mac("") && !machine_mac("52:54:00:12:34:56:78"),
       "what is no MAC");
}

static const char json[] =
    "{\"name\": \"web\", \"firmware\": \"uefi\", \"secure_boot\": true, \"cpus\": 3,"
    " \"memory\": 1073741824, \"disks\": [{\"path\": \"d.raw\", \"format\": \"raw\","
    " \"bus\": \"scsi\", \"sector_size\": 4096}, {\"path\": \"d.vmdk\", \"part_off\": "
    "1024, \"part_len\": 512, \"boot\": true}], \"nics\": [{\"mac\": "
    "\"52:54:00:AA:BB:CC\", \"model\": \"e1000\", \"network\": \"n\", "
    "\"place\": \"ens5\"}],"
    " \"guest\": {\"distribution\": \"debian\"}}";

static void test_json(void)
{
    struct err e;
    struct machine *m = read_text("web.json", json, &e);
    if (!ok(m != NULL, "JSON is read")) {
        printf("# %s\n", e.text);
        return;
    }
    AUTO(json_free) json_t *j = NULL;
    struct machine *back = NULL;
    if (machine_json(m, &j, &e) < 0 || machine_from_json(j, &back, &e) < 0)
        test_die(&e);
    AUTO(json_free) json_t *again = NULL;
    if (machine_json(back, &again, &e) < 0)
        test_die(&e);
    ok(json_equal(j, again), "written and read it is the same");
    is_str(json_string_value(json_object_get(j, "firmware")), "uefi", "firmware");
    is_str(disk_name(back, 1), "d.vmdk", "path");
    is_u64(back->disks[1].part_off, 1024, "part");
    ok(back->disks[1].boot && !back->disks[0].boot, "boot");
    is_u64(back->disks[0].sector_size, 4096, "sector");
    is_str(back->nics[0].mac, "52:54:00:aa:bb:cc", "MAC");
    is_str(back->nics[0].place, "ens5", "place");
    ok(json_object_get(back->guest, "distribution") != NULL, "facts of the guest");
    machine_free(m);
    machine_free(back);
}

static void test_bad_json(void)
{
    refused("a.json", "{\"disks\": [{\"path\": \"gone\"}]}", "not there",
            "a missing disk");
    refused("a.json", "{\"disks\": [{}]}", "path", "a disk without path");
    refused("a.json", "{\"disks\": 1}", "array", "disks that are no list");
    refused("a.json", "{\"disks\": []}", "no disk", "no disk");
    refused("a.json", "{\"disks\": [{\"path\": \"d.raw\"}], \"firmware\": \"x\"}",
            "firmware", "an unknown firmware");
    refused("a.json", "{\"disks\": [{\"path\": \"d.raw\", \"sector_size\": 100}]}",
            "sector", "an odd sector");
    refused("a.json", "{\"disks\": [{\"path\": \"d.raw\"}], \"cpus\": 99999999999}",
            "CPUs", "absurdly many CPUs");
    refused("a.json",
            "{\"disks\": [{\"path\": \"d.raw\"}], \"nics\": [{\"mac\": \"x\"}]}", "MAC",
            "a MAC that is none");
    AUTO(buf_done) struct buf b = BUF_INIT(MIB);
    buf_str(&b, "{\"disks\": [{\"path\": \"d.raw\"}], \"nics\": [{}");
    for (int i = 0; i < 64; i++)
        buf_str(&b, ", {}");
    buf_str(&b, "]}");
    refused("a.json", b.data, "64 network", "65 network interfaces");
}

int main(void)
{
    test_start();
    test_image();
    test_sources();
    test_names();
    test_json();
    test_bad_json();
    return test_end();
}
