// Attention of one new token per sequence over the paged KV pool, on a CPU.
//
// The pool of a layer is [num_blocks * block_size, 2, kv_heads, dim]: a token's keys, then its
// values. A work item is one sequence and a range of its key heads; it reads each key and each
// value once, where they lie. Scores and sums are float32 whatever the pool's type.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include <omp.h>

namespace {

struct BFloat16 {
    uint16_t bits;
};

inline float to_float(float x) { return x; }

inline float to_float(BFloat16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// e^x for x <= 0 within 2 ulp, without a branch or a call, so that a loop over it is vectorised.
inline float exp_nonpositive(float x) {
    x = std::max(x, -87.0f);
    const float shifted = x * 1.44269504f + 12582912.0f;  // rounds x / ln 2 to an integer
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

struct Shape {
    int64_t batch, heads, kv_heads, dim, query_stride, width, block_size, window;
    float scale;
};

// DIM is the head's size where it is known when this is compiled, else 0.
template <int DIM, typename T>
inline float dot(const float* query, const T* key, int64_t size) {
    const int64_t dim = DIM ? DIM : size;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t d = 0; d < dim; ++d) sum += query[d] * to_float(key[d]);
    return sum;
}

template <int DIM, typename T>
inline void add_scaled(float* sum, float weight, const T* value, int64_t size) {
    const int64_t dim = DIM ? DIM : size;
#pragma omp simd
    for (int64_t d = 0; d < dim; ++d) sum[d] += weight * to_float(value[d]);
}

template <typename T, int DIM>
class Item {
  public:
    Item(const Shape& shape, const T* pool, const int64_t* table, int64_t position)
        : s(shape), pool_(pool), table_(table),
          first_(s.window ? std::max<int64_t>(0, position - s.window + 1) : 0),
          last_(position), group_(s.heads / s.kv_heads) {}

    // Query heads of key heads [from, to). `queries` and `out` are the sequence's rows. Block by
    // block with an online softmax, so that the pool is read once and from front to back.
    void run(const float* queries, float* out, int64_t from, int64_t to,
             std::vector<float>& scratch) {
        const int64_t dim = DIM ? DIM : s.dim, rows = (to - from) * group_, size = s.block_size;
        scratch.assign(rows * (2 * dim + size + 2), 0.0f);
        float* scaled = scratch.data();
        float* sums = scaled + rows * dim;
        float* scores = sums + rows * dim;
        float* tops = scores + rows * size;
        float* totals = tops + rows;
        const float* asked = queries + from * group_ * dim;
        for (int64_t i = 0; i < rows * dim; ++i) scaled[i] = asked[i] * s.scale;
        std::fill_n(tops, rows, -std::numeric_limits<float>::infinity());
        for (int64_t block = first_ / size; block <= last_ / size; ++block) {
            const int64_t begin = std::max(first_ - block * size, int64_t{0});
            const int64_t count = std::min(last_ - block * size, size - 1) - begin + 1;
            const T* keys = pool_ + ((table_[block] * size + begin) * 2 * s.kv_heads + from) * dim;
            score(keys, count, rows, scaled, scores);
            for (int64_t row = 0; row < rows; ++row)
                weigh(scores + row * size, count, sums + row * dim, tops[row], totals[row]);
            mix(keys + s.kv_heads * dim, count, rows, scores, sums);
        }
        for (int64_t row = 0; row < rows; ++row) {
            const float share = 1.0f / totals[row];
            float* result = out + (from * group_ + row) * dim;
            for (int64_t d = 0; d < dim; ++d) result[d] = sums[row * dim + d] * share;
        }
    }

  private:
    int64_t dim() const { return DIM ? DIM : s.dim; }

    void score(const T* keys, int64_t count, int64_t rows, const float* scaled,
               float* scores) const {
        for (int64_t t = 0; t < count; ++t, keys += 2 * s.kv_heads * dim())
            for (int64_t row = 0, key = 0; row < rows; key += dim())
                for (int64_t i = 0; i < group_; ++i, ++row)
                    scores[row * s.block_size + t] =
                        dot<DIM>(scaled + row * dim(), keys + key, dim());
    }

    // Scores of a block become weights that go with the highest score so far.
    void weigh(float* scores, int64_t count, float* sums, float& top, float& total) const {
        float high = top;
#pragma omp simd reduction(max : high)
        for (int64_t t = 0; t < count; ++t) high = std::max(high, scores[t]);
        if (high > top) {
            const float fade = exp_nonpositive(top - high);
            total *= fade;
            for (int64_t d = 0; d < dim(); ++d) sums[d] *= fade;
            top = high;
        }
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t t = 0; t < count; ++t) {
            scores[t] = exp_nonpositive(scores[t] - high);
            sum += scores[t];
        }
        total += sum;
    }

    void mix(const T* values, int64_t count, int64_t rows, const float* weights,
             float* sums) const {
        for (int64_t t = 0; t < count; ++t, values += 2 * s.kv_heads * dim())
            for (int64_t row = 0, key = 0; row < rows; key += dim())
                for (int64_t i = 0; i < group_; ++i, ++row)
                    add_scaled<DIM>(sums + row * dim(), weights[row * s.block_size + t],
                                    values + key, dim());
    }

    const Shape& s;
    const T* pool_;
    const int64_t* table_;
    const int64_t first_, last_, group_;
};

template <typename T, int DIM>
void attend(const Shape& s, const float* queries, const T* pool, const int64_t* tables,
            const int64_t* positions, float* out, int threads) {
    // Few sequences are cut by heads, so that every thread has several items to take.
    const int64_t wanted = threads == 1 ? 1 : (4 * threads + s.batch - 1) / s.batch;
    const int64_t parts = std::min(s.kv_heads, wanted);
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> scratch;
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < s.batch * parts; ++i) {
            const int64_t row = i / parts, part = i % parts;
            Item<T, DIM> item(s, pool, tables + row * s.width, positions[row]);
            item.run(queries + row * s.query_stride, out + row * s.heads * s.dim,
                     s.kv_heads * part / parts, s.kv_heads * (part + 1) / parts, scratch);
        }
    }
}

// By the sizes of heads that nearly all models have.
template <typename T>
void attend_any(const Shape& s, const float* queries, const void* pool, const int64_t* tables,
                const int64_t* positions, float* out, int threads) {
    const auto run = s.dim == 64 ? attend<T, 64> : s.dim == 128 ? attend<T, 128> : attend<T, 0>;
    run(s, queries, static_cast<const T*>(pool), tables, positions, out, threads);
}

}  // namespace

// queries: [batch, heads, dim] with rows `query_stride` elements apart; tables: [batch, width] of
// block numbers; positions: [batch], the new token's own; window 0 sees everything; out: [batch,
// heads, dim]. The pool is bfloat16 if `is_bf16`, else float32.
extern "C" void rondo_paged_decode(const float* queries, const void* pool, const int64_t* tables,
                                   const int64_t* positions, float* out, int64_t batch,
                                   int64_t heads, int64_t kv_heads, int64_t dim,
                                   int64_t query_stride, int64_t width, int64_t block_size,
                                   int64_t window, float scale, int is_bf16, int threads) {
    const Shape s{batch, heads, kv_heads, dim, query_stride, width, block_size, window, scale};
    if (is_bf16)
        attend_any<BFloat16>(s, queries, pool, tables, positions, out, threads);
    else
        attend_any<float>(s, queries, pool, tables, positions, out, threads);
}
