# Foreign C: the part of OpenSSL 3 that TLS needs, by its stable ABI, found at run time.
# No header of OpenSSL is needed to build, and nothing is linked: libssl is loaded when TLS is configured.

from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <dlfcn.h>
    #include <errno.h>
    #include <stddef.h>
    #include <stdint.h>

    #define TLS_FUNCTIONS(F) \\
        F(const void *, TLS_server_method, (void)) \\
        F(const void *, TLS_client_method, (void)) \\
        F(unsigned long, OpenSSL_version_num, (void)) \\
        F(void *, SSL_CTX_new, (const void *method)) \\
        F(void, SSL_CTX_free, (void *context)) \\
        F(long, SSL_CTX_ctrl, (void *context, int command, long number, void *pointer)) \\
        F(long, SSL_ctrl, (void *ssl, int command, long number, void *pointer)) \\
        F(uint64_t, SSL_CTX_set_options, (void *context, uint64_t options)) \\
        F(int, SSL_CTX_set_num_tickets, (void *context, size_t count)) \\
        F(int, SSL_CTX_set_cipher_list, (void *context, const char *names)) \\
        F(void, SSL_CTX_set_default_passwd_cb, (void *context, int (*call)(char *, int, int, void *))) \\
        F(int, SSL_CTX_use_certificate_chain_file, (void *context, const char *path)) \\
        F(int, SSL_CTX_use_PrivateKey_file, (void *context, const char *path, int type)) \\
        F(int, SSL_CTX_check_private_key, (const void *context)) \\
        F(void, SSL_CTX_set_alpn_select_cb, (void *context, int (*call)(void *, const unsigned char **, \\
            unsigned char *, const unsigned char *, unsigned int, void *), void *argument)) \\
        F(void *, SSL_new, (void *context)) \\
        F(void, SSL_free, (void *ssl)) \\
        F(void, SSL_set_bio, (void *ssl, void *read, void *write)) \\
        F(void, SSL_set_accept_state, (void *ssl)) \\
        F(void, SSL_set_connect_state, (void *ssl)) \\
        F(int, SSL_do_handshake, (void *ssl)) \\
        F(int, SSL_is_init_finished, (const void *ssl)) \\
        F(int, SSL_read, (void *ssl, void *data, int size)) \\
        F(int, SSL_write, (void *ssl, const void *data, int size)) \\
        F(int, SSL_shutdown, (void *ssl)) \\
        F(int, SSL_get_error, (const void *ssl, int result)) \\
        F(void *, BIO_meth_new, (int type, const char *name)) \\
        F(int, BIO_meth_set_write, (void *method, int (*call)(void *, const char *, int))) \\
        F(int, BIO_meth_set_read, (void *method, int (*call)(void *, char *, int))) \\
        F(int, BIO_meth_set_ctrl, (void *method, long (*call)(void *, int, long, void *))) \\
        F(void *, BIO_new, (const void *method)) \\
        F(void, BIO_set_data, (void *bio, void *data)) \\
        F(void *, BIO_get_data, (void *bio)) \\
        F(void, BIO_set_flags, (void *bio, int flags)) \\
        F(void, BIO_clear_flags, (void *bio, int flags)) \\
        F(void, ERR_clear_error, (void)) \\
        F(unsigned long, ERR_peek_last_error, (void)) \\
        F(const char *, ERR_reason_error_string, (unsigned long error))

    #define TLS_POINTER(result, name, arguments) result (*name) arguments;
    struct tls_library { TLS_FUNCTIONS(TLS_POINTER) };
    #undef TLS_POINTER

    /* Fills in the pointers; NULL, or what is missing: the library, or the first function that it lacks. */
    static inline const char *tls_library_load(struct tls_library *library) {
        void *handle = dlopen("libssl.so.3", RTLD_NOW | RTLD_LOCAL);  /* stays loaded */
        if (!handle) return "libssl.so.3";
    #define TLS_POINTER(result, name, arguments) \\
        if (!(library->name = (result (*) arguments)dlsym(handle, #name))) return #name;
        TLS_FUNCTIONS(TLS_POINTER)
    #undef TLS_POINTER
        return NULL;
    }
    static inline void errno_set(int number) { errno = number; }
    """
    struct tls_library:
        const void *(*TLS_server_method)() noexcept nogil
        const void *(*TLS_client_method)() noexcept nogil
        unsigned long (*OpenSSL_version_num)() noexcept nogil
        void *(*SSL_CTX_new)(const void *method) noexcept nogil
        void (*SSL_CTX_free)(void *context) noexcept nogil
        long (*SSL_CTX_ctrl)(void *context, int command, long number, void *pointer) noexcept nogil
        long (*SSL_ctrl)(void *ssl, int command, long number, void *pointer) noexcept nogil
        uint64_t (*SSL_CTX_set_options)(void *context, uint64_t options) noexcept nogil
        int (*SSL_CTX_set_num_tickets)(void *context, size_t count) noexcept nogil
        int (*SSL_CTX_set_cipher_list)(void *context, const char *names) noexcept nogil
        void (*SSL_CTX_set_default_passwd_cb)(
            void *context, int (*call)(char *, int, int, void *) noexcept nogil) noexcept nogil
        int (*SSL_CTX_use_certificate_chain_file)(void *context, const char *path) noexcept nogil
        int (*SSL_CTX_use_PrivateKey_file)(void *context, const char *path, int type) noexcept nogil
        int (*SSL_CTX_check_private_key)(const void *context) noexcept nogil
        void (*SSL_CTX_set_alpn_select_cb)(
            void *context,
            int (*call)(void *, const unsigned char **, unsigned char *, const unsigned char *, unsigned int,
                        void *) noexcept nogil,
            void *argument) noexcept nogil
        void *(*SSL_new)(void *context) noexcept nogil
        void (*SSL_free)(void *ssl) noexcept nogil
        void (*SSL_set_bio)(void *ssl, void *read, void *write) noexcept nogil
        void (*SSL_set_accept_state)(void *ssl) noexcept nogil
        void (*SSL_set_connect_state)(void *ssl) noexcept nogil
        int (*SSL_do_handshake)(void *ssl) noexcept nogil
        int (*SSL_is_init_finished)(const void *ssl) noexcept nogil
        int (*SSL_read)(void *ssl, void *data, int size) noexcept nogil
        int (*SSL_write)(void *ssl, const void *data, int size) noexcept nogil
        int (*SSL_shutdown)(void *ssl) noexcept nogil
        int (*SSL_get_error)(const void *ssl, int result) noexcept nogil
        void *(*BIO_meth_new)(int type, const char *name) noexcept nogil
        int (*BIO_meth_set_write)(void *method, int (*call)(void *, const char *, int) noexcept nogil) noexcept nogil
        int (*BIO_meth_set_read)(void *method, int (*call)(void *, char *, int) noexcept nogil) noexcept nogil
        int (*BIO_meth_set_ctrl)(void *method, long (*call)(void *, int, long, void *) noexcept nogil) noexcept nogil
        void *(*BIO_new)(const void *method) noexcept nogil
        void (*BIO_set_data)(void *bio, void *data) noexcept nogil
        void *(*BIO_get_data)(void *bio) noexcept nogil
        void (*BIO_set_flags)(void *bio, int flags) noexcept nogil
        void (*BIO_clear_flags)(void *bio, int flags) noexcept nogil
        void (*ERR_clear_error)() noexcept nogil
        unsigned long (*ERR_peek_last_error)() noexcept nogil
        const char *(*ERR_reason_error_string)(unsigned long error) noexcept nogil

    const char *tls_library_load(tls_library *library) noexcept nogil
    void errno_set(int number) noexcept nogil

cdef enum:  # numbers of OpenSSL's ABI
    SSL_FILETYPE_PEM = 1
    SSL_ERROR_WANT_READ = 2
    SSL_ERROR_ZERO_RETURN = 6
    SSL_CTRL_MODE = 33
    SSL_CTRL_SET_SESS_CACHE_MODE = 44
    SSL_CTRL_SET_TLSEXT_HOSTNAME = 55
    SSL_CTRL_SET_GROUPS_LIST = 92
    SSL_CTRL_SET_MIN_PROTO_VERSION = 123
    SSL_MODE_RELEASE_BUFFERS = 0x10
    SSL_TLSEXT_ERR_OK = 0
    SSL_TLSEXT_ERR_ALERT_FATAL = 2
    BIO_TYPE_SOURCE_SINK = 0x0400
    BIO_FLAGS_READ = 0x01
    BIO_FLAGS_ALL = 0x0F  # read, write, special, and that trying again may help
    BIO_FLAGS_SHOULD_RETRY = 0x08
    BIO_CTRL_FLUSH = 11
    SSL_OP_NO_TICKET = 1 << 14
    SSL_OP_NO_COMPRESSION = 1 << 17
    SSL_OP_PRIORITIZE_CHACHA = 1 << 21  # for who names it first: a phone without AES in hardware
    SSL_OP_CIPHER_SERVER_PREFERENCE = 1 << 22
    SSL_OP_NO_RENEGOTIATION = 1 << 30
