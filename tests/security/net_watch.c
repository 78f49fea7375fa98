/* Preloaded into every process of a run: writes down each step towards a network.
 *
 * One line a call in $NET_WATCH_LOG: "PID CALL FAMILY ADDRESS PORT". The calls go on as they are.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void note(const char *call, const char *family, const char *address, int port) {
    const char *path = getenv("NET_WATCH_LOG");
    char line[512];
    int length, file;
    if (!path || (file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) < 0)
        return;
    length = snprintf(line, sizeof line, "%d %s %s %.300s %d\n", getpid(), call, family, address,
                      port);
    if (write(file, line, length) != length)
        abort();
    close(file);
}

__attribute__((constructor)) static void loaded(void) { note("load", "unix", "-", 0); }

static void note_address(const char *call, const struct sockaddr *to) {
    char text[INET6_ADDRSTRLEN] = "?";
    if (!to)
        return;
    if (to->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)to;
        inet_ntop(AF_INET, &in->sin_addr, text, sizeof text);
        note(call, "inet", text, ntohs(in->sin_port));
    } else if (to->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)to;
        inet_ntop(AF_INET6, &in->sin6_addr, text, sizeof text);
        note(call, "inet6", text, ntohs(in->sin6_port));
    } else if (to->sa_family == AF_UNIX) {
        const char *path = ((const struct sockaddr_un *)to)->sun_path;
        note(call, path[0] ? "unix" : "abstract", path[0] ? path : path + 1, 0);
    }
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int connect(int socket, const struct sockaddr *to, socklen_t length) {
    note_address("connect", to);
    return REAL(connect)(socket, to, length);
}

int bind(int socket, const struct sockaddr *at, socklen_t length) {
    note_address("bind", at);
    return REAL(bind)(socket, at, length);
}

ssize_t sendto(int socket, const void *data, size_t size, int flags, const struct sockaddr *to,
               socklen_t length) {
    note_address("sendto", to);
    return REAL(sendto)(socket, data, size, flags, to, length);
}

ssize_t sendmsg(int socket, const struct msghdr *message, int flags) {
    note_address("sendmsg", message->msg_name);
    return REAL(sendmsg)(socket, message, flags);
}

int listen(int socket, int backlog) {
    struct sockaddr_storage at;
    socklen_t length = sizeof at;
    if (getsockname(socket, (struct sockaddr *)&at, &length) == 0)
        note_address("listen", (struct sockaddr *)&at);
    return REAL(listen)(socket, backlog);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
    note("getaddrinfo", "name", node ? node : "-", service ? atoi(service) : 0);
    return REAL(getaddrinfo)(node, service, hints, found);
}
