import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.util.Map;

/** The service in Java: a servlet in Tomcat, JDBC, and the three lines of redis' protocol that it needs. */
public class Service extends HttpServlet {
    private static final Map<String, String> ENV = System.getenv();
    private static final byte[] ME = String.format(
            "{\"service\": \"tomcat\", \"host\": \"%s\", \"port\": %s, \"version\": \"%s\"}",
            ENV.get("FIEFDOM_HOST"), ENV.get("FIEFDOM_PORT"), ENV.get("FIEFDOM_VERSION")).getBytes(StandardCharsets.UTF_8);

    @Override
    public void init() throws ServletException {
        try {
            Class.forName("org.postgresql.Driver");
        } catch (ClassNotFoundException error) {
            throw new ServletException(error);
        }
    }

    @Override
    protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
        byte[] answer = ME;
        switch (request.getRequestURI()) {
            case "/predict", "/health" -> { }
            case "/rows" -> {
                try {
                    keep(request.getParameter("id"));
                } catch (SQLException | IOException error) {
                    response.setStatus(503);
                    answer = String.valueOf(error.getMessage()).getBytes(StandardCharsets.UTF_8);
                }
            }
            default -> {
                response.setStatus(404);
                answer = new byte[0];
            }
        }
        response.setContentType("application/json");
        response.setContentLength(answer.length);
        response.getOutputStream().write(answer);
    }

    private static void keep(String row) throws SQLException, IOException {
        String url = String.format("jdbc:postgresql://%s:%s/postgres?connectTimeout=10&loginTimeout=10&socketTimeout=10",
                ENV.get("POSTGRES_HOST"), ENV.get("POSTGRES_PORT"));
        try (Connection connection = DriverManager.getConnection(url, "service", ENV.get("POSTGRES_PASSWORD"));
                PreparedStatement insert = connection.prepareStatement(
                        "INSERT INTO rows (id, service) VALUES (?, 'tomcat') ON CONFLICT DO NOTHING")) {
            insert.setString(1, row);
            insert.executeUpdate();
        }
        try (Socket store = new Socket()) {
            store.connect(new InetSocketAddress(ENV.get("REDIS_HOST"), Integer.parseInt(ENV.get("REDIS_PORT"))), 10000);
            store.setSoTimeout(10000);
            store.getOutputStream().write(("INCR tomcat\r\nPUBLISH rows " + row + "\r\n").getBytes(StandardCharsets.UTF_8));
            BufferedReader said = new BufferedReader(new InputStreamReader(store.getInputStream(), StandardCharsets.UTF_8));
            for (int count = 0; count < 2; count++) {
                String line = said.readLine();
                if (line == null || !line.startsWith(":")) {
                    throw new IOException("redis says " + line);
                }
            }
        }
    }
}
